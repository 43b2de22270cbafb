//! Events to text.
