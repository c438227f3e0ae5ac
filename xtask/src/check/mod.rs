//! The checks of the tree: [`ci`] is the list of all, and the others are commands that run one.

pub(crate) mod bugs;
pub(crate) mod ci;
pub(crate) mod coverage;
pub(crate) mod miri;
pub(crate) mod model;
pub(crate) mod size;
pub(crate) mod tree;
