//! JUnit reports.
