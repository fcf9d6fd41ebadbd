"""Signal models, solvers and operators of MRI reconstruction, on torch tensors; nothing here knows of configs."""
