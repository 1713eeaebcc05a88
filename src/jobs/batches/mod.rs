//! OpenAI's batches: files whose lines are jobs, from the upload to the files that hold what came of them.
//!
//! A batch is looked through once before any of it is called ([`check`]), its lines become jobs ([`load`]), and when all of
//! these have their ends, these are written to its files ([`write`]). Each is done in bites, one transaction each, that write
//! down how far they have come: after a crash the next process goes on where this one stood. [`driver`] takes the bites, in
//! turn for all open batches; `step` says which. All of it is the gateway's: a program that embeds forebay runs the lines that are
//! jobs already, and a batch goes on when a daemon opens the store.

mod check;
mod driver;
mod intake;
mod lines;
mod load;
mod step;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upload;
mod write;

pub(crate) use driver::{Driver, Runner};
pub(crate) use intake::{Ask, Batches};
pub(crate) use upload::{UPLOAD_BYTES, Upload};
