"""From the values of metrics to tables: per slice, per subject, and the short one that is printed.

The values of one method are a DataFrame with the columns "metric", "scan", "image" and "value", one row per metric and
image, see :meth:`meddlr_greedy.evaluation.evaluator.ReconstructionEvaluator.table`. Needs no model.
"""

import math
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import pandas as pd
from tabulate import tabulate

__all__ = [
    "ALL_SUBJECTS",
    "DETAILS",
    "HEADLINES",
    "LABELS",
    "SCORES",
    "SPREAD",
    "base_name",
    "column_of",
    "counted",
    "mean_and_spread",
    "methods_by_scan",
    "num_slices",
    "printed_table",
    "slice_scores",
    "slice_table",
    "not_finite_images",
    "subject_table",
    "summary",
    "undefined_values",
]

Tables = Mapping[str, pd.DataFrame]  # method, a key of LABELS -> its values

#: Column of the printed table -> metric. Complex PSNR and NRMSE, as meddlr's own headline numbers.
HEADLINES = {"PSNR, complex": "psnr", "SSIM, magnitude": "ssim (Wang)", "NRMSE, complex": "nrmse"}
#: Those that are told with the images of a slice.
SCORES = ("PSNR, complex", "SSIM, magnitude")
#: Methods by their names in files and in print.
LABELS = {"zero_filled": "zero-filled", "reconstruction": "reconstruction"}

#: In the table of subjects: mean and standard deviation over the subjects' means.
ALL_SUBJECTS = "(all subjects)"

#: What the brackets of a table hold, the same in print and in the report.
SPREAD = "mean (standard deviation) over {}"

#: Row of the second table, of cine -> metrics of its columns. A metric is called by both, "PSNR, complex": of the whole
#: image, where no heart is named.
DETAILS = {
    "complex": {"PSNR": "psnr", "SSIM": "ssim_complex (Wang)", "NRMSE": "nrmse"},
    "magnitude": {"PSNR": "psnr_mag", "SSIM": "ssim (Wang)", "NRMSE": "nrmse_mag"},
    "heart, complex": {"PSNR": "psnr_heart", "SSIM": "ssim_complex (Wang)_heart", "NRMSE": "nrmse_heart"},
    "heart, magnitude": {"PSNR": "psnr_mag_heart", "SSIM": "ssim (Wang)_heart", "NRMSE": "nrmse_mag_heart"},
    "heart, x-t profile": {"NRMSE": "nrmse_xt"},
    "heart, temporal std": {"NRMSE": "nrmse_tstd"},
}


# ---- Tables in files


def slice_table(tables: Tables, subjects: Mapping[str, str]) -> pd.DataFrame:
    """Every metric of every slice.

    Args:
        tables: Method -> its values.
        subjects: Scan -> subject; a scan that is not in it is a subject of its own.

    Returns:
        DataFrame: Columns "scan", "slice" (empty for a metric of the scan), "subject", "method", "metric", "mean",
        "std" and "count": over the frames of the slice.
    """
    return _grouped(_joined(tables, subjects), ["scan", "slice", "subject", "method", "metric"])


def num_slices(table: pd.DataFrame) -> int:
    """How many slices there are in a table of :func:`slice_table`."""
    return len(table.loc[table["slice"] != "", ["scan", "slice"]].drop_duplicates())


def subject_table(tables: Tables, subjects: Mapping[str, str]) -> pd.DataFrame:
    """Every metric of every subject.

    Args:
        tables: Method -> its values.
        subjects: Scan -> subject; a scan that is not in it is a subject of its own.

    Returns:
        DataFrame: Columns "subject", "method", "metric", "mean", "std" and "count": over the frames of the subject
        (over its slices or scans, for a metric of slices or scans). The last rows, of the subject
        :data:`ALL_SUBJECTS`, are over the subjects: each counts once, however many slices it has.
    """
    per_subject = _grouped(_joined(tables, subjects), ["subject", "method", "metric"])
    means = per_subject.rename(columns={"mean": "value"}).assign(subject=ALL_SUBJECTS)
    return pd.concat([per_subject, _grouped(means, ["subject", "method", "metric"])], ignore_index=True)


def summary(table: pd.DataFrame) -> Dict[str, Dict[str, Optional[float]]]:
    """Metric -> "mean", "std" and "count" over all values of one method; ``None`` for what is not finite."""
    return {
        str(metric): {
            "mean": _finite(values.mean()),
            "std": _finite(values.std()),
            "count": int(values.count()),
        }
        for metric, values in table.groupby("metric", sort=False)["value"]
    }


def methods_by_scan(tables: Tables) -> Dict[str, Dict[str, Dict[str, Optional[float]]]]:
    """Scan -> method -> metric -> mean over the scan's images; ``None`` for what is not finite."""
    scans: Dict[str, Dict[str, Dict[str, Optional[float]]]] = {}
    for method, table in tables.items():
        for (scan, metric), values in table.groupby(["scan", "metric"], sort=False)["value"]:
            scans.setdefault(scan, {}).setdefault(method, {})[metric] = _finite(values.mean())
    return scans


def slice_scores(table: pd.DataFrame, scan_id: str, slice_id: int) -> Dict[str, float]:
    """The :data:`SCORES` of a slice, averaged over its frames."""
    image = f"{scan_id}-{slice_id}"
    rows = table[(table["scan"] == scan_id) & ((table["image"] + "-").str.startswith(image + "-"))]
    return {label: float(_metric_values(rows, HEADLINES[label]).mean()) for label in SCORES}


def undefined_values(table: pd.DataFrame, method: str, what: str = "images") -> str:
    """A sentence about what a mean leaves out, since the metric is not defined there (an empty target).

    Slices without a heart have no metrics of the heart, and images smaller than its window no SSIM: both are the rule,
    and not told of.

    Args:
        table: The values of one method, in the columns "metric" and "value".
        method: What the method is called.
        what: What has one value each.

    Returns:
        str: Empty where all are defined.
    """
    counts = []
    for metric, values in table.groupby("metric", sort=False)["value"]:
        undefined = int(values.isna().sum())
        if undefined and not _may_be_undefined(str(metric)):
            counts.append(f"{metric} of {undefined} of {len(values)}")
    return f"The means of {method} leave out what is not defined, {', '.join(counts)} {what}." if counts else ""


def _may_be_undefined(metric: str) -> bool:
    return any(word in metric for word in ("_heart", "nrmse_xt", "nrmse_tstd", "ssim"))


def not_finite_images(names: Sequence[str], method: str) -> str:
    """Sentences about images of a method that hold NaN or infinity."""
    return (
        f"Of {method}, {len(names)} images hold NaN or infinity (first {names[0]}). They have no metrics, and the means"
        " are not those of the data set."
    )


def counted(number: int, unit: str) -> str:
    """A number of things: "1 subject", "2 subjects"."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def column_of(metric: str) -> Tuple[str, str]:
    """What a metric compares, and its short name, both as in the printed tables: "complex" and "PSNR".

    Args:
        metric: A name in a table of values; that of a scan ("psnr_scan") compares "complex, per scan".
    """
    name, _, channel = metric.partition("/")
    over_scan = name.endswith("_scan")
    name = name[: -len("_scan")] if over_scan else name
    found = [(kind, label) for kind, names in DETAILS.items() for label, known in names.items() if known == name]
    kind, label = found[0] if found else ("other", name)
    return kind + (", per scan" if over_scan else ""), label + (f", {channel}" if channel else "")


def base_name(metrics: pd.Series) -> pd.Series:
    """Names of metrics without channels: meddlr counts map sets of 2D images as channels, "psnr/channel_0"."""
    return metrics.str.split("/").str[0].rename("metric")


def _joined(tables: Tables, subjects: Mapping[str, str]) -> pd.DataFrame:
    """The values of all methods, with slice and subject of each."""
    values = pd.concat([table.assign(method=method) for method, table in tables.items()], ignore_index=True)
    names = zip(values["scan"], values["image"])
    values["slice"] = [image[len(scan) + 1 :].split("-")[0] for scan, image in names]
    values["subject"] = [subjects.get(scan, scan) for scan in values["scan"]]
    return values


def _grouped(values: pd.DataFrame, keys: List[str]) -> pd.DataFrame:
    """Mean, standard deviation and count of "value" per group; NaN (no heart, too small for SSIM) does not count."""
    return values.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()


def _metric_values(table: pd.DataFrame, metric: str) -> pd.Series:
    """The values of a metric, of all its channels."""
    return table.loc[base_name(table["metric"]) == metric, "value"]


def _finite(value: float) -> Optional[float]:
    """JSON knows no NaN and no infinity: null."""
    return float(value) if math.isfinite(value) else None


# ---- The printed table


def printed_table(tables: Tables, dataset: str, label: str, is_cine: bool) -> str:
    """A short table: rows zero-filled and the network, columns mean (standard deviation) of the metrics.

    Of a cine series a second one follows: image and heart, complex and magnitude, and what happens in time. The last
    line says what the means are over.

    Args:
        tables: "zero_filled" and "reconstruction" -> its values.
        dataset: Name of the data set.
        label: What the network is called.
        is_cine: Whether the images are series.
    """
    headers = [dataset]
    rows = [[LABELS["zero_filled"]], [label]]
    for headline, metric in HEADLINES.items():
        for suffix, over in (("", "frame" if is_cine else "image"), ("_scan", "scan")):
            headers.append(f"{headline}\nper {over}")
            for row, table in zip(rows, tables.values()):
                row.append(_cell(headline, _metric_values(table, metric + suffix)))
    text = tabulate(rows, headers=headers, disable_numparse=True)
    details = _details(dict(zip((LABELS["zero_filled"], label), tables.values()))) if is_cine else ""
    return "\n\n".join(filter(None, [text, details, _legend(tables["reconstruction"], is_cine)]))


def _legend(table: pd.DataFrame, is_cine: bool) -> str:
    """What the cells of the printed tables are over, by the values of one method."""
    names = base_name(table["metric"])
    over_scans = names.str.endswith("_scan")
    over_slices = names.isin(["nrmse_xt", "nrmse_tstd"])
    num_images = table.loc[~over_scans & ~over_slices, "image"].nunique()
    parts = [SPREAD.format(counted(num_images, "frame" if is_cine else "image"))]
    if over_scans.any():
        parts.append(f"per scan: over {counted(table['scan'].nunique(), 'scan')}")
    if over_slices.any():
        of_heart = counted(table.loc[over_slices, "image"].nunique(), "slice")
        parts.append(f"heart: over those that show it; x-t profile and temporal std: over {of_heart}")
    return f"Cells: {'; '.join(parts)}. Those over subjects are in report.html."


def _details(tables: Tables) -> str:
    """The second table, by the methods' names in print; empty where the metrics in it were not asked for."""
    labels = list(DETAILS["complex"])
    headers = ["per frame or slice", *(f"{label}\n{method}" for label in labels for method in tables)]
    known = set.intersection(*(set(table["metric"]) for table in tables.values()))
    rows = []
    for name, metrics in DETAILS.items():
        if known.issuperset(metrics.values()):
            names = [(label, metrics.get(label, "")) for label in labels]
            cells = [_cell(label, _metric_values(table, n)) for label, n in names for table in tables.values()]
            rows.append([name, *cells])
    return tabulate(rows, headers=headers, disable_numparse=True) if rows else ""


def _cell(label: str, values: pd.Series) -> str:
    return "" if values.empty else mean_and_spread(label, values.mean(), values.std())


def mean_and_spread(label: str, mean: float, std: float) -> str:
    """A cell: the mean and, in brackets, the standard deviation where there is one; a single value has none.

    Args:
        label: What the metric is called.
        mean: Of the values.
        std: Of the values.
    """
    digits = 2 if label.startswith("PSNR") else 4
    return f"{mean:.{digits}f}" + (f" ({std:.{digits}f})" if math.isfinite(std) else "")
