"""The upper layer protocol of DICOM (PS3.8 section 9.2) as a table and a machine. No input or output; time is given."""
