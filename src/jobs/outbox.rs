//! Webhooks that are due are told.

use std::rc::Rc;

use super::registry::Registry;
use super::way::Way;
use crate::clock::Dice;
use crate::pool::transport::Transport;
use crate::store::Ms;

pub(super) struct Outbox;

pub(super) struct Sent;

impl Outbox {
    pub(super) fn new(_: Registry, _: Way, _: Rc<dyn Transport>, _: Dice) -> Self {
        Self
    }

    pub(super) fn is_due(&mut self, _: Ms) {}

    pub(super) fn next_at(&self) -> Option<Ms> {
        None
    }

    pub(super) fn go_on(&mut self, _: Ms, _: impl Fn(Sent) + Clone + 'static) {}

    pub(super) fn hear(&mut self, _: Sent) {}

    pub(super) fn under_way(&self) -> usize {
        0
    }
}
