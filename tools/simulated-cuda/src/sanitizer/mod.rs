//! Detectors of errors that hardware does not report.

pub(crate) mod shadow;
