//! The composition root: starts the actors, hands out the handle, ends it all in order.

mod admission;
mod handle;

pub(crate) use admission::Admitted;
pub use handle::Forebay;
pub(crate) use handle::{Model, Pending, Seat};
