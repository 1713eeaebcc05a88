//! The configuration of a run, drawn and drawn anew for each reload.

use std::fmt::Write as _;

use super::record::Draw;
use crate::Config;

/// Slots of an account that sets no `max_concurrent`.
const SLOTS: usize = 4;

/// What an account may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caps {
    pub(super) requests: Option<u64>,
    pub(super) tokens: Option<u64>,
    pub(super) concurrent: usize,
}

#[derive(Clone, Debug)]
pub(super) struct UpstreamPlan {
    pub(super) name: &'static str,
    pub(super) keys: Vec<String>,
    pub(super) caps: Caps,
    max_concurrent: Option<usize>,
}

/// A configuration.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) upstreams: Vec<UpstreamPlan>,
    capacity: u64,
    max_attempts: u64,
    jitter: &'static str,
    retry_budget: f64,
    base_delay: u64,
}

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

impl UpstreamPlan {
    fn draw(name: &'static str, draw: &mut Draw) -> Self {
        let mut keys: Vec<String> = (0..4).map(|n| format!("sk-{name}-00000000{n}")).collect();
        while keys.len() as u64 > 1 + draw.below(3) {
            let at = draw.below(keys.len() as u64) as usize;
            keys.remove(at);
        }
        let mut plan =
            Self { name, keys, caps: Caps { requests: None, tokens: None, concurrent: 0 }, max_concurrent: None };
        plan.draw_caps(draw);
        plan
    }

    fn draw_caps(&mut self, draw: &mut Draw) {
        self.max_concurrent = if draw.one_in(3) { None } else { Some(draw.between(1, 5) as usize) };
        self.caps = Caps {
            requests: if draw.one_in(3) { None } else { Some(draw.between(4, 60)) },
            tokens: if draw.one_in(3) { Some(draw.between(300, 4_000)) } else { None },
            concurrent: self.max_concurrent.unwrap_or(SLOTS),
        };
    }
}

impl Plan {
    pub(super) fn draw(draw: &mut Draw) -> Self {
        let count = draw.between(2, 3) as usize;
        Self {
            upstreams: NAMES[..count].iter().map(|name| UpstreamPlan::draw(name, draw)).collect(),
            capacity: draw.between(4, 40),
            max_attempts: draw.between(1, 5),
            jitter: draw.pick(&["full", "none"]),
            retry_budget: draw.pick(&[0.0, 0.2, 1.0]),
            base_delay: draw.between(50, 2_000),
        }
    }

    /// What an operator might make of it next: other limits, other keys, an upstream fewer or more.
    pub(super) fn redraw(&self, draw: &mut Draw) -> Self {
        let mut next = self.clone();
        for upstream in &mut next.upstreams {
            match draw.below(4) {
                0 => upstream.draw_caps(draw),
                1 => upstream.keys = UpstreamPlan::draw(upstream.name, draw).keys,
                _ => {}
            }
        }
        if draw.one_in(4) && next.upstreams.len() > 1 {
            let at = draw.below(next.upstreams.len() as u64) as usize;
            next.upstreams.remove(at);
        } else if draw.one_in(2)
            && let Some(name) = NAMES.iter().find(|name| next.upstreams.iter().all(|has| has.name != **name))
        {
            next.upstreams.push(UpstreamPlan::draw(name, draw));
            next.upstreams.sort_by_key(|upstream| upstream.name);
        }
        next
    }

    pub(super) fn config(&self) -> Config {
        let mut text = format!(
            "[pool]\nthreads = 0\nslots_per_account = {SLOTS}\nmax_restarts = 5\nrestart_window = \"20s\"\n\
             [queue]\ncapacity = {}\nmax_bytes = \"64KiB\"\ndefault_timeout = \"45s\"\n\
             [retry]\nmax_attempts = {}\nbase_delay = \"{}ms\"\nmax_delay = \"8s\"\njitter = \"{}\"\nretry_budget = {:.1}\n",
            self.capacity, self.max_attempts, self.base_delay, self.jitter, self.retry_budget
        );
        for upstream in &self.upstreams {
            let UpstreamPlan { name, keys, caps, max_concurrent } = upstream;
            let limits: Vec<String> = [
                caps.requests.map(|cap| format!("requests_per_minute = {cap}")),
                caps.tokens.map(|cap| format!("tokens_per_minute = {cap}")),
                max_concurrent.map(|cap| format!("max_concurrent = {cap}")),
            ]
            .into_iter()
            .flatten()
            .collect();
            let _ = write!(
                text,
                "[upstreams.{name}]\nbase_url = \"http://{name}.test/v1\"\napi_keys = {keys:?}\nmodels = [\"{name}-m\", \"shared\"]\n\
                 first_byte_timeout = \"8s\"\nanswer_timeout = \"12s\"\nidle_timeout = \"6s\"\nlimits = {{ {} }}\n",
                limits.join(", ")
            );
        }
        let targets: Vec<String> =
            self.upstreams.iter().rev().map(|upstream| format!("{0}/{0}-m", upstream.name)).collect();
        let _ = write!(text, "[routes.\"smart\"]\ntargets = {targets:?}\n");
        Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }
}
