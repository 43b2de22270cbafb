//! What the host does with good and bad plugins, against a real plugin process that acts on cue.

mod callbacks;
mod calls;
mod discovery;
mod ends;
mod hello;
mod stage;
