//! What the journal of a run promises.
