"""Data for the problems without time of tests/problems, from scikit-learn's bundled files, in two file formats."""

import io
import shutil
import zipfile
from pathlib import Path

from sklearn.datasets import load_diabetes, load_wine

HERE = Path(__file__).parent / "problems"


def install_wine(problems: Path) -> None:
    """178 wines as Parquet."""
    data = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    data.to_parquet(_copy_problem("wine", problems) / "wines.parquet", index=False)


def install_diabetes(problems: Path) -> None:
    """442 patients as a zipped CSV."""
    data = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
    text = io.StringIO()
    data.astype({"age": int, "sex": int}).to_csv(text, index=False)
    with zipfile.ZipFile(_copy_problem("diabetes", problems) / "patients.csv.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("patients.csv", text.getvalue())


def _copy_problem(name: str, problems: Path) -> Path:
    shutil.copytree(HERE / name, problems / name, dirs_exist_ok=True)
    (problems / name / "data").mkdir(exist_ok=True)
    return problems / name / "data"
