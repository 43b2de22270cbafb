//! Settings that remember who spoke.
