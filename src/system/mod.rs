//! The composition root: starts the actors, hands out the handle, ends it all in order.

mod durable;
mod events;
mod handle;
mod remembering;
mod root;
mod start;
#[cfg(test)]
mod tests;
mod threads;

pub use events::{Event, Events};
pub use handle::{Forebay, Model};
pub use start::Builder;
#[cfg(feature = "gateway")]
pub(crate) use {crate::dispatcher::Admitted, handle::Pending};
