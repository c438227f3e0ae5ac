//! The checks of the tree: [`ci`] lists them all; each of the others is a command that runs one.

pub(crate) mod bugs;
pub(crate) mod ci;
pub(crate) mod coverage;
pub(crate) mod miri;
pub(crate) mod model;
pub(crate) mod size;
pub(crate) mod statics;
pub(crate) mod tree;
