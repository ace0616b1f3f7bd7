//! For those who come from elsewhere.

#[doc = include_str!("../docs/from_multiprocessing.md")]
pub mod from_multiprocessing {}

#[doc = include_str!("../docs/from_rayon.md")]
pub mod from_rayon {}
