//! What outlives a dispatcher that died: its lanes, and with them what every account has used and is held by. For the first
//! one, it is what an earlier process kept.

use std::cell::RefCell;
use std::rc::Rc;

use super::lane::Lane;
use crate::messages::Recollection;

/// Shared by the root and, one after the other, its dispatchers; all live on one thread.
#[derive(Clone, Default)]
pub(crate) struct Legacy {
    lanes: Rc<RefCell<Vec<Lane>>>,
    recollections: Rc<RefCell<Vec<Recollection>>>,
}

impl Legacy {
    /// What the first dispatcher is told of earlier processes.
    pub(crate) fn of_earlier(recollections: Vec<Recollection>) -> Self {
        Self { recollections: Rc::new(RefCell::new(recollections)), ..Self::default() }
    }

    /// Leaves `lanes` behind. Never panics: it is called while a panic unwinds.
    pub(super) fn leave(&self, lanes: Vec<Lane>) {
        if let Ok(mut left) = self.lanes.try_borrow_mut() {
            *left = lanes;
        }
    }

    /// Takes what was left, without the calls that waited there.
    pub(super) fn take(&self) -> Vec<Lane> {
        self.lanes.take().into_iter().map(Lane::without_calls).collect()
    }

    /// What earlier processes kept, once.
    pub(super) fn recollections(&self) -> Vec<Recollection> {
        self.recollections.take()
    }
}
