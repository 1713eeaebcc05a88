//! What was learned of accounts outlives the process: the dispatcher is asked for a little of it every now and then, and what an
//! earlier process kept is given to the first dispatcher of this one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::root::Shared;
use crate::clock;
use crate::jobs::Registry;
use crate::messages::{AskMemories, AwaitAttempt, Memory, Recollection};
use crate::store::{Ms, StoreError};
use crate::telemetry::events;

/// How often the dispatcher is asked: what a kill forgets of an account that was parked is no older.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A few accounts at a time, since each takes the dispatcher up to a millisecond; one that is only busy not more often than so.
const A_FEW: AskMemories = AskMemories { most: 2, every: Duration::from_secs(5) };

/// At the end.
pub(super) const ALL: AskMemories = AskMemories { most: usize::MAX, every: Duration::ZERO };

/// A memory as it is in the store.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    at: Ms,
    #[serde(borrow)]
    learned: &'a RawValue,
}

/// After so many answers that had nothing new nothing is asked until an attempt starts: more than [`A_FEW`]'s `every`.
const QUIET_AFTER: u32 = 10;

/// Keeps what is worth it, for as long as it is polled.
pub(super) async fn remember(shared: Arc<Shared>, registry: Registry) {
    loop {
        // Asked for before it is looked: nothing comes in between unheard.
        let attempt = shared.dispatcher().send(AwaitAttempt);
        let mut quiet = 0;
        while quiet < QUIET_AFTER {
            clock::until(clock::now() + ASK_EVERY).await;
            let is_new = remember_some(&shared, &registry, A_FEW).await;
            quiet = if is_new { 0 } else { quiet + 1 };
        }
        // A dispatcher that has died meanwhile is news as well.
        let _ = attempt.await;
    }
}

/// Keeps what is worth it of some accounts; `false` when there was nothing new.
pub(super) async fn remember_some(shared: &Shared, registry: &Registry, ask: AskMemories) -> bool {
    let asked = shared.dispatcher().send(ask).await;
    // One that died has left what it learned to the next, which is asked later.
    let memories = asked.unwrap_or_default();
    if memories.is_empty() {
        return false;
    }
    let at = registry.now();
    let kept: Vec<(String, Bytes)> = memories.into_iter().filter_map(|memory| kept(memory, at)).collect();
    let written = registry
        .store()
        .write(move |changes| kept.iter().try_for_each(|(account, learned)| changes.remember(account, learned)));
    if let Err(error) = written.await {
        events::not_remembered(&error);
    }
    true
}

fn kept(Memory { account, learned }: Memory, at: Ms) -> Option<(String, Bytes)> {
    let kept = Kept { at, learned: serde_json::from_slice(&learned).ok()? };
    Some((account, serde_json::to_vec(&kept).ok()?.into()))
}

/// What earlier processes kept.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn recollections(registry: &Registry) -> Result<Vec<Recollection>, StoreError> {
    let now = registry.now();
    let kept = registry.store().read(|records| records.remembered()).await?;
    // What cannot be read is learned anew.
    Ok(kept.into_iter().filter_map(|(account, kept)| recollected(account, &kept, now)).collect())
}

fn recollected(account: String, kept: &Bytes, now: Ms) -> Option<Recollection> {
    let Kept { at, learned } = serde_json::from_slice(kept).ok()?;
    let ago = Duration::from_millis(u64::try_from(now.saturating_sub(at)).unwrap_or(0));
    Some(Recollection { memory: Memory { account, learned: kept.slice_ref(learned.get().as_bytes()) }, ago })
}
