//! What outlives a dispatcher that died: its lanes, and with them what every account has used and is held by.

use std::cell::RefCell;
use std::rc::Rc;

use super::lane::Lane;

/// Shared by the root and, one after the other, its dispatchers; all live on one thread.
#[derive(Clone, Default)]
pub(crate) struct Legacy(Rc<RefCell<Vec<Lane>>>);

impl Legacy {
    /// Leaves `lanes` behind. Never panics: it is called while a panic unwinds.
    pub(super) fn leave(&self, lanes: Vec<Lane>) {
        if let Ok(mut left) = self.0.try_borrow_mut() {
            *left = lanes;
        }
    }

    /// Takes what was left, without the calls that waited there.
    pub(super) fn take(&self) -> Vec<Lane> {
        self.0.take().into_iter().map(Lane::without_calls).collect()
    }
}
