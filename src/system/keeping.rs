//! Keeps over a restart what the dispatcher has learned of accounts: a few of them each second, all at the end. What a kill
//! forgets is at most some seconds old; an account that was parked is kept within a second.

use std::time::Duration;

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::dispatcher::Dispatcher;
use crate::jobs::Registry;
use crate::messages::{AskMemories, Memory, Recollection};
use crate::store::{Ms, StoreError};
use crate::telemetry::events;

/// How often the dispatcher is asked.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// A few at a time: writing a large account down takes the dispatcher a millisecond.
pub(super) const A_FEW: AskMemories = AskMemories { most: 2, every: Duration::from_secs(5) };

/// At the end.
pub(super) const ALL: AskMemories = AskMemories { most: usize::MAX, every: Duration::ZERO };

/// A memory as it stands in the store.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    saved_at: Ms,
    #[serde(borrow)]
    learned: &'a RawValue,
}

/// Asks the dispatcher once and keeps what it says. What cannot be kept is learned anew.
pub(super) async fn keep(dispatcher: Addr<Dispatcher>, registry: Registry, ask: AskMemories) {
    // One that has died has left what it learned to the next.
    let Ok(memories) = dispatcher.send(ask).await else { return };
    if memories.is_empty() {
        return;
    }
    let saved_at = registry.now();
    let written: Vec<_> = memories.iter().filter_map(|memory| written(memory, saved_at)).collect();
    let kept = registry.store().write(move |changes| {
        for (account, learned) in &written {
            changes.remember(account, &learned.clone().into())?;
        }
        Ok(())
    });
    if let Err(error) = kept.await {
        events::memories_not_kept(&error);
    }
}

fn written(memory: &Memory, saved_at: Ms) -> Option<(String, Vec<u8>)> {
    let learned = serde_json::from_slice(&memory.learned).ok()?;
    Some((memory.account.clone(), serde_json::to_vec(&Kept { saved_at, learned }).ok()?))
}

/// What earlier processes kept.
pub(super) async fn recollections(registry: &Registry) -> Result<Vec<Recollection>, StoreError> {
    let now = registry.now();
    let remembered = registry.store().read(|records| records.remembered()).await?;
    let recollection = |(account, kept): (String, bytes::Bytes)| {
        let Kept { saved_at, learned } = serde_json::from_slice(&kept).ok()?;
        // A clock that went back does not make it younger than it can be.
        let ago = Duration::from_millis(u64::try_from(now.saturating_sub(saved_at)).unwrap_or(0));
        let learned = learned.get().to_owned().into();
        Some(Recollection { memory: Memory { account, learned }, ago })
    };
    Ok(remembered.into_iter().filter_map(recollection).collect())
}
