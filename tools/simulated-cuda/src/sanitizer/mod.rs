//! Detectors of errors that hardware does not report.
