//! Settings that remember who spoke.
//!
//! [`keys`] is the table of every setting. [`load()`](load::load) stacks defaults, files, environment and
//! flags; [`settings`] holds the outcome with the origin of each value, [`values`] is the plain form the
//! rest of the kernel reads, [`block`] merges a provider's own settings, and [`show`] prints it all.

pub mod block;
pub mod keys;
mod layer;
pub mod load;
mod read;
pub mod settings;
pub mod show;
pub mod text;
pub mod values;

pub use block::{Block, BlockRequest, Property, Stray};
pub use load::{Sources, load};
pub use settings::{Layer, Origin, Setting, Settings, Warning};
pub use values::{TailscaleSettings, Values};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod documented;
