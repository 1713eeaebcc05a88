//! Wire formats, pure.

pub(crate) mod headers;
