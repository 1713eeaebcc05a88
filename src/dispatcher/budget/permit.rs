//! Budget reserved for one attempt, as a value that the attempt holds.

use std::cell::Cell;
use std::rc::Rc;

use super::Group;
use super::doubt::Unsure;
use super::learned::Entered;
use super::sends::{Cost, Ticket};
use crate::clock::Instant;
use crate::dispatcher::concurrency::Mark;

/// Budget reserved for one attempt. Gives its place in flight back when dropped, however the attempt ends.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(in super::super) in_flight: Rc<Cell<usize>>,
    pub(super) group: Group,
    pub(super) entered: Entered,
    /// Where it is entered in the account's log.
    pub(super) ticket: Ticket,
    /// What is held against the caps, and how far that may be off.
    pub(super) capped: (Cost, Unsure),
    /// Taken at the end.
    pub(super) mark: Option<Mark>,
}

impl Permit {
    pub(crate) fn group(&self) -> Group {
        self.group
    }

    /// When its attempt started.
    pub(crate) fn asked(&self) -> Instant {
        self.entered.at
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}
