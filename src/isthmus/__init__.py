"""Isthmus joins the DICOM networks of different institutions through cloud resources that can read nothing."""

__version__ = "0.1.0"
