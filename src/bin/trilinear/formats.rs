//! Placeholder: the file formats of `run` are written elsewhere.
