//! What the box holds equals the manifest.
