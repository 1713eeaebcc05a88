//! What outlives a dispatcher that died: the budgets of its accounts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::Budget;
use super::lane::Lane;
use crate::messages::Secret;

struct Left {
    upstream: Arc<str>,
    key: Option<Secret>,
    budget: Budget,
}

/// Shared by the root and, one after the other, its dispatchers; all live on one thread.
#[derive(Clone, Default)]
pub(crate) struct Legacy(Rc<RefCell<Vec<Left>>>);

impl Legacy {
    /// Leaves the budgets of `lanes` behind. Never panics: it is called while a panic unwinds.
    pub(super) fn leave(&self, lanes: Vec<Lane>) {
        let Ok(mut left) = self.0.try_borrow_mut() else { return };
        left.clear();
        for lane in lanes {
            let upstream = lane.upstream.name.clone();
            left.extend(lane.desks.into_iter().map(|desk| Left {
                upstream: upstream.clone(),
                key: desk.account.key.clone(),
                budget: desk.budget,
            }));
        }
    }

    /// Gives `lanes` the budgets that were left for their accounts. Nothing of theirs is in flight any more.
    pub(super) fn inherit(&self, lanes: &mut [Lane]) {
        for left in self.0.take() {
            let lane = lanes.iter_mut().find(|lane| lane.upstream.name == left.upstream);
            let desk = lane.and_then(|lane| lane.desks.iter_mut().find(|desk| desk.account.key == left.key));
            if let Some(desk) = desk {
                desk.budget.inherit(left.budget);
            }
        }
    }
}
