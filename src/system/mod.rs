//! The composition root: starts the actors, hands out the handle, ends it all in order.

mod events;
mod handle;
mod start;
mod threads;

pub(crate) use crate::dispatcher::Admitted;
pub use events::{Event, Events};
pub use handle::Forebay;
pub(crate) use handle::{Model, Pending};
pub use start::Builder;
pub(crate) use threads::Seat;
