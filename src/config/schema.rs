//! Reads every section of the file, in the contract's order. Upstreams and routes have a file of their own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::load::DEFAULTS;
use super::raw::{Quiet, Raw};
use super::secret::check_key;
use super::section::Section;
use super::{
    Config, Jitter, Jobs, Log, LogFormat, Pool, Queue, Retry, Server, Store, StoreUrl, Tenant, presets, upstreams,
    values,
};
use crate::messages::Secret;

/// What stands in for a retry policy until a file, at least the built-in one, has said its own.
const NO_RETRY: Retry = Retry {
    max_attempts: 1,
    base_delay: Duration::ZERO,
    multiplier: 1.0,
    max_delay: Duration::ZERO,
    jitter: Jitter::None,
    retry_budget: 0.0,
};

/// Reads the whole file. A key with a problem has some value in its place, and a section that is none makes it `None`;
/// either way the problem is recorded and the caller hands nothing out.
pub(super) fn read(file: &mut Section<'_>) -> Option<Config> {
    let has_tenants = file.has("tenants");
    let server = file.table("server", |section| server(section, has_tenants));
    let is_store_told = file.is_told("store");
    let store = file.table("store", |section| store(section, is_store_told));
    let queue = file.table("queue", queue);
    let retries = file.table("retry", |section| retry(section, NO_RETRY)).unwrap_or(NO_RETRY);
    let pool = file.table("pool", pool);
    let log = file.table("log", log);
    let names = file.names_in("upstreams");
    if !file.has("upstreams") && file.is_complete() {
        no_upstream(file);
    }
    let upstreams = file.table("upstreams", |all| upstreams::read_all(all, retries));
    let routes = file.table("routes", |all| upstreams::read_routes(all, &names));
    let jobs = file.table("jobs", jobs);
    let admin_key = server.as_ref().and_then(|server| server.admin_key.clone());
    let tenants = file.table("tenants", |all| tenants(all, admin_key));
    Some(Config {
        server: server?,
        store: store?,
        queue: queue?,
        pool: pool?,
        log: log?,
        upstreams: upstreams?,
        routes: routes.unwrap_or_default(),
        jobs: jobs?,
        tenants: tenants.unwrap_or_default(),
        warnings: Vec::new(),
        effective: Vec::new(),
        effective_toml: String::new(),
    })
}

fn server(section: &mut Section<'_>, has_tenants: bool) -> Server {
    const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let listen_origin = section.origin_of("listen");
    let server = Server {
        listen: section.get("listen", values::listen).unwrap_or(ANYWHERE),
        allow_anonymous: section.get("allow_anonymous", values::any).unwrap_or_default(),
        origins: section.get("origins", values::origins).unwrap_or_default(),
        admin_key: section.secret("admin_key", check_key),
        max_body: section.get("max_body", values::size).unwrap_or_default(),
        drain_timeout: section.get("drain_timeout", values::duration).unwrap_or_default(),
    };
    let is_local = server.listen.ip().to_canonical().is_loopback();
    if !is_local && !has_tenants && !server.allow_anonymous && section.is_complete() {
        let message = format!(
            "\"{}\" would let anyone who reaches it spend your keys; add [tenants.NAME] with a key, or set allow_anonymous = true",
            server.listen
        );
        section.problem("listen", listen_origin, message);
    }
    server
}

fn queue(section: &mut Section<'_>) -> Queue {
    Queue {
        capacity: section.get("capacity", values::count).unwrap_or_default(),
        max_bytes: section.get("max_bytes", values::size).unwrap_or_default(),
        default_timeout: section.get("default_timeout", values::duration).unwrap_or_default(),
    }
}

/// Reads `[retry]` or what an upstream says otherwise; what `section` leaves out is `inherited`.
pub(super) fn retry(section: &mut Section<'_>, inherited: Retry) -> Retry {
    const JITTERS: [(&str, Jitter); 2] = [("full", Jitter::Full), ("none", Jitter::None)];
    let delays = ["base_delay", "max_delay"];
    let said = delays.map(|key| section.has(key));
    let blamed = delays.into_iter().find(|key| section.is_told(key)).map(|key| (key, section.origin_of(key)));

    let max_attempts = section.get("max_attempts", values::count);
    let base_delay = section.get("base_delay", values::duration);
    let multiplier = section.get("multiplier", values::multiplier);
    let max_delay = section.get("max_delay", values::duration);
    let retry = Retry {
        max_attempts: max_attempts.unwrap_or(inherited.max_attempts),
        base_delay: base_delay.unwrap_or(inherited.base_delay),
        multiplier: multiplier.unwrap_or(inherited.multiplier),
        max_delay: max_delay.unwrap_or(inherited.max_delay),
        jitter: section.get("jitter", values::choice(&JITTERS)).unwrap_or(inherited.jitter),
        retry_budget: section.get("retry_budget", values::share).unwrap_or(inherited.retry_budget),
    };
    let readable = said == [base_delay.is_some(), max_delay.is_some()];
    if let Some((key, origin)) = blamed
        && readable
        && retry.base_delay > retry.max_delay
    {
        let (base, max) = (retry.base_delay, retry.max_delay);
        section.problem(
            key,
            origin,
            format!("base_delay {base:?} is above max_delay {max:?}; raise max_delay or lower base_delay"),
        );
    }
    retry
}

fn pool(section: &mut Section<'_>) -> Pool {
    Pool {
        threads: section.get("threads", values::threads).unwrap_or_default(),
        slots_per_account: section.get("slots_per_account", values::count).unwrap_or_default(),
        max_restarts: section.get("max_restarts", values::count).unwrap_or_default(),
        restart_window: section.get("restart_window", values::duration).unwrap_or_default(),
        thread_timeout: section.get("thread_timeout", values::duration).unwrap_or_default(),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    const FORMATS: [(&str, LogFormat); 3] =
        [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    Log {
        level: section.get("level", values::log_level).unwrap_or_default(),
        format: section.get("format", values::choice(&FORMATS)).unwrap_or(LogFormat::Auto),
    }
}

fn no_upstream(file: &Section<'_>) {
    let origin = match file.origin_of("upstreams") {
        DEFAULTS => "configuration",
        origin => origin,
    };
    let variables = presets::variables();
    let message = format!(
        "no upstream is configured; add [upstreams.NAME] with base_url, api_keys and models, or set {variables}"
    );
    file.problem("upstreams", origin, message);
}

fn store(section: &mut Section<'_>, is_told: bool) -> Store {
    let url = section.raw::<Quiet>("url").and_then(|(url, origin)| {
        let shown = url.masked().toml();
        match values::store_url(&url) {
            Ok(url) => {
                section.note("url", shown, origin);
                Some(url)
            }
            Err(message) => {
                section.problem("url", origin, message);
                None
            }
        }
    });
    Store {
        url: url.unwrap_or(StoreUrl::Memory),
        is_told,
        keep_results_for: section.get("keep_results_for", values::duration).unwrap_or_default(),
    }
}

fn jobs(section: &mut Section<'_>) -> Jobs {
    Jobs {
        webhook_secret: section.secret("webhook_secret", values::webhook_secret),
        webhook_allow_private: section.get("webhook_allow_private", values::any).unwrap_or_default(),
        max_file: section.get("max_file", values::size).unwrap_or_default(),
    }
}

/// Reads `[tenants]`. A key tells who is calling, so no two may be the same, the operator's included.
fn tenants(all: &mut Section<'_>, admin_key: Option<Secret>) -> BTreeMap<Arc<str>, Tenant> {
    let mut taken: Vec<(Secret, String)> =
        admin_key.into_iter().map(|key| (key, "[server] admin_key".into())).collect();
    let tenants = all.each(|name, section| {
        section.check_name("tenant", name);
        let origin = section.origin_of("key");
        let key = section.need_secret("key", "key = \"env:NAME\", what its callers send as their API key", check_key);
        if let Some(key) = &key {
            match taken.iter().find(|(other, _)| other == key) {
                Some((_, owner)) => {
                    section.problem("key", origin, format!("is the same as {owner}; give each its own"))
                }
                None => taken.push((key.clone(), format!("[tenants.{name}] key"))),
            }
        }
        if section.has("weight") {
            section.warn("weight", section.origin_of("weight"), "is not in force yet");
            section.get("weight", values::weight);
        }
        // A cap that is not kept would be worse than none: whoever set it relies on it.
        for cap in ["requests_per_minute", "max_spend_usd_per_day"] {
            section.refuse(cap, "is not in force yet and would not protect; remove it");
        }
        key.map(|key| (Arc::from(name), Tenant { key }))
    });
    tenants.into_values().flatten().collect()
}
