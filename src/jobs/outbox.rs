//! Webhooks that are due are told, few at once; what became of each is written down where it was found.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use serde::Serialize;
use tokio::task::AbortHandle;

use super::registry::Registry;
use super::verdict::millis;
use super::view::Shown;
use super::way::Way;
use super::webhook::{Delivery, DeliveryEnd, MOST_AT_ONCE, Webhooks};
use crate::clock::{self, Dice};
use crate::messages::Secret;
use crate::pool::transport::Transport;
use crate::store::jobs::JobRecord;
use crate::store::outbox::Outgoing;
use crate::store::{Ms, StoreError};
use crate::telemetry::jobs as events;

/// How soon it is looked again where nothing could be done.
const LOOK_AGAIN_MS: Ms = 60_000;

/// Which deliveries are under way, and when it is looked for more.
pub(super) struct Outbox {
    registry: Registry,
    way: Way,
    transport: Rc<dyn Transport>,
    dice: Dice,
    /// What delivers, by the secret and the leave of the configuration it was made of.
    webhooks: Option<(Secret, bool, Rc<Webhooks>)>,
    /// By their number in the outbox.
    under_way: HashMap<i64, AbortHandle>,
    look: Option<AbortHandle>,
    next: Option<Ms>,
}

/// What the outbox's own tasks come to.
pub(super) enum Sent {
    /// These are due, with the jobs they tell of; and when the first of all is.
    Found(Result<Found, StoreError>),
    /// One delivery is over, and what became of it is written down, or could not be.
    Told(i64, Result<(), StoreError>),
}

/// What was found in the outbox.
#[derive(Default)]
pub(super) struct Found {
    due: Vec<(Outgoing, Option<JobRecord>)>,
    first: Option<Ms>,
}

/// What a receiver is told.
#[derive(Serialize)]
struct Event<'a> {
    object: &'static str,
    r#type: String,
    /// When it happened, in seconds since 1970.
    created_at: Ms,
    data: Shown<'a>,
}

impl Outbox {
    pub(super) fn new(registry: Registry, way: Way, transport: Rc<dyn Transport>, dice: Dice) -> Self {
        Self { registry, way, transport, dice, webhooks: None, under_way: HashMap::new(), look: None, next: None }
    }

    /// Something is due then.
    pub(super) fn is_due(&mut self, at: Ms) {
        self.next = Some(self.next.map_or(at, |known| known.min(at)));
    }

    /// When it is to be looked; nothing while it is, or as many are under way as may be.
    pub(super) fn next_at(&self) -> Option<Ms> {
        self.next.filter(|_| self.look.is_none() && self.under_way.len() < MOST_AT_ONCE)
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Looks for what is due, if it is time to. `tell` hears what that, and all else, comes to.
    pub(super) fn go_on(&mut self, now: Ms, tell: impl Fn(Sent) + 'static) {
        if self.next_at().is_none_or(|at| at > now) {
            return;
        }
        self.next = None; // what is said meanwhile comes on top of what is found
        // Those under way are still in there, and due.
        let limit = self.under_way.len() + MOST_AT_ONCE;
        let found = self.registry.store().read(move |records| {
            let mut found = Found { due: Vec::new(), first: records.next_outgoing()? };
            for outgoing in records.outgoing(now, limit)? {
                let job = records.job_of_anyone(outgoing.job)?;
                found.due.push((outgoing, job));
            }
            Ok(found)
        });
        self.look = Some(actix_rt::spawn(async move { tell(Sent::Found(found.await)) }).abort_handle());
    }

    /// Takes notice of what came, and tells what was found.
    pub(super) fn hear(&mut self, sent: Sent, now: Ms, tell: impl Fn(Sent) + Clone + 'static) {
        match sent {
            Sent::Found(Ok(found)) => {
                self.look = None;
                self.deliver(found, now, &tell);
            }
            Sent::Found(Err(error)) => {
                self.look = None;
                events::store_failed("looking for webhooks", &error);
                self.is_due(now.saturating_add(LOOK_AGAIN_MS));
            }
            Sent::Told(number, written) => {
                self.under_way.remove(&number);
                match written {
                    Ok(()) => self.is_due(now),
                    // It is told again then: a receiver knows it by its id.
                    Err(error) => {
                        events::store_failed("writing down what became of a webhook", &error);
                        self.is_due(now.saturating_add(LOOK_AGAIN_MS));
                    }
                }
            }
        }
    }

    fn deliver(&mut self, found: Found, now: Ms, tell: &(impl Fn(Sent) + Clone + 'static)) {
        if found.due.is_empty() {
            return found.first.into_iter().for_each(|at| self.is_due(at));
        }
        let Some(webhooks) = self.webhooks() else {
            events::webhooks_wait(found.due.len());
            return self.is_due(now.saturating_add(LOOK_AGAIN_MS));
        };
        let is_cut_short = found.due.len() >= self.under_way.len() + MOST_AT_ONCE;
        for (outgoing, job) in found.due {
            if self.under_way.contains_key(&outgoing.number) {
                continue;
            }
            if self.under_way.len() >= MOST_AT_ONCE {
                return self.is_due(now);
            }
            let task = self.tell(outgoing, job, Rc::clone(&webhooks), tell.clone());
            self.under_way.insert(task.0, task.1);
        }
        if is_cut_short {
            self.is_due(now);
        } else if self.under_way.is_empty() {
            found.first.into_iter().for_each(|at| self.is_due(at));
        }
        // While some are under way, their ends have it looked again.
    }

    /// Starts one delivery.
    fn tell(
        &self,
        outgoing: Outgoing,
        job: Option<JobRecord>,
        webhooks: Rc<Webhooks>,
        tell: impl Fn(Sent) + 'static,
    ) -> (i64, AbortHandle) {
        let Outgoing { number, job: id, url, attempts, .. } = outgoing;
        let registry = self.registry.clone();
        let task = actix_rt::spawn(async move {
            let end = match job.as_ref().and_then(body) {
                Some(body) => {
                    let at = registry.wall().at(clock::now());
                    webhooks.deliver(Delivery { job: id, url, body, made: attempts }, at).await
                }
                None => DeliveryEnd::GivenUp { why: "its job is kept no longer".to_owned() },
            };
            let due = match end {
                DeliveryEnd::Again { after } => Some(registry.now().saturating_add(millis(after))),
                DeliveryEnd::Delivered | DeliveryEnd::GivenUp { .. } => None,
            };
            let written = registry.store().write(move |changes| match due {
                Some(due) => changes.outgoing_again(number, due),
                None => changes.outgoing_done(number),
            });
            tell(Sent::Told(number, written.await));
        });
        (number, task.abort_handle())
    }

    /// What delivers by the configuration in force; nothing where that has no secret to sign with.
    fn webhooks(&mut self) -> Option<Rc<Webhooks>> {
        let config = self.way.config();
        let (secret, allow_private) = (config.jobs.webhook_secret.clone()?, config.jobs.webhook_allow_private);
        if let Some((of, allows, webhooks)) = &self.webhooks
            && (of, *allows) == (&secret, allow_private)
        {
            return Some(Rc::clone(webhooks));
        }
        let dice = Dice::seeded(self.dice.number());
        let made = Webhooks::new(&secret, allow_private, Rc::clone(&self.transport), dice).ok()?;
        let webhooks = Rc::new(made);
        self.webhooks = Some((secret, allow_private, Rc::clone(&webhooks)));
        Some(webhooks)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.under_way.values().chain(&self.look).for_each(AbortHandle::abort);
    }
}

/// What is told of a job's end: the same at each attempt, since a job stays as it ended.
fn body(job: &JobRecord) -> Option<Bytes> {
    let created_at = job.finished_at?.div_euclid(1_000);
    let event = Event { object: "event", r#type: format!("job.{}", job.status), created_at, data: Shown::from(job) };
    serde_json::to_vec(&event).ok().map(Bytes::from)
}
