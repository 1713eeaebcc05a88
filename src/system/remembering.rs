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
use crate::messages::{AskMemories, Memory, Recollection};
use crate::store::{Ms, StoreError};
use crate::telemetry::events;

/// So often the dispatcher is asked, for so many accounts: each takes it up to a millisecond. What was parked comes first.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_FOR: usize = 4;

/// An account that is only busy is not kept more often.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// A memory as it is in the store.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    at: Ms,
    #[serde(borrow)]
    learned: &'a RawValue,
}

/// Keeps what is worth it, for as long as it is polled.
pub(super) async fn remember(shared: Arc<Shared>, registry: Registry) {
    loop {
        clock::until(clock::now() + ASK_EVERY).await;
        remember_some(&shared, &registry, ASK_FOR).await;
    }
}

/// Keeps what is worth it of at most `most` accounts.
pub(super) async fn remember_some(shared: &Shared, registry: &Registry, most: usize) {
    let asked = shared.dispatcher().send(AskMemories { most, every: KEEP_EVERY }).await;
    // One that died is followed by one that learns anew; its accounts are asked for then.
    let memories = asked.unwrap_or_default();
    if memories.is_empty() {
        return;
    }
    let at = registry.now();
    let kept: Vec<(String, Bytes)> = memories.into_iter().filter_map(|memory| kept(memory, at)).collect();
    let written = registry
        .store()
        .write(move |changes| kept.iter().try_for_each(|(account, learned)| changes.remember(account, learned)));
    if let Err(error) = written.await {
        events::not_remembered(&error);
    }
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
