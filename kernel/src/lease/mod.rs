//! Leases: the bracket that always gives a box back, the claim, and the trail that survives us.

pub mod trail;
