//! Wire formats, pure.
