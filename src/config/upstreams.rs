//! Reads `[upstreams.NAME]` and the routes over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::HeaderValue;

use super::secret::check_key;
use super::section::Section;
use super::{Limits, Prices, Retry, Target, UpstreamSection, schema, values};
use crate::messages::{Account, AccountId, Headers, Price, Timeouts, Upstream, UpstreamKind};

const KINDS: [(&str, UpstreamKind); 3] =
    [("openai", UpstreamKind::OpenAi), ("anthropic", UpstreamKind::Anthropic), ("gemini", UpstreamKind::Gemini)];

/// Reads every upstream; each may override `retries`.
pub(super) fn read_all(all: &mut Section<'_>, retries: Retry) -> BTreeMap<Arc<str>, UpstreamSection> {
    let upstreams = all.each(|name, section| upstream(name, section, retries));
    upstreams.into_iter().map(|(name, upstream)| (name.into(), upstream)).collect()
}

fn upstream(name: &str, section: &mut Section<'_>, retries: Retry) -> UpstreamSection {
    section.check_name("upstream", name);
    let kind = section.get("kind", values::choice(&KINDS)).unwrap_or(UpstreamKind::OpenAi);
    let base_url =
        section.need("base_url", "base_url = \"https://…\", such as \"https://api.openai.com/v1\"", values::base_url);
    let keys = section.secrets("api_keys", check_key);
    let models = section.need("models", "models = [\"gpt-4o\", \"gpt-4o-*\"], or [\"*\"] for any", values::models);
    let timeouts = Timeouts {
        connect: section.get("connect_timeout", values::duration).unwrap_or_default(),
        first_byte: section.get("first_byte_timeout", values::duration).unwrap_or_default(),
        answer: section.get("answer_timeout", values::duration).unwrap_or_default(),
        idle: section.get("idle_timeout", values::duration).unwrap_or_default(),
    };
    let upstream = Arc::new(Upstream {
        name: name.into(),
        kind,
        base_url: base_url.unwrap_or_default(),
        timeouts,
        max_answer: section.get("max_answer", values::size).unwrap_or_default(),
        ask_usage: section.get("ask_usage", values::any).unwrap_or_default(),
        authorities: section.get("ca_file", values::ca_file).unwrap_or_default(),
        headers: section.table("headers", headers).unwrap_or_default(),
    });
    let limits = section.table("limits", limits).unwrap_or_default();
    let retry = section.table("retry", |section| schema::retry(section, retries)).unwrap_or(retries);
    let prices = section.table("prices", prices).unwrap_or_default();

    // Local servers ask for no key; they are one account all the same, with one budget.
    let keys = keys.map_or_else(|| vec![None], |keys| keys.into_iter().map(Some).collect());
    let account = |(n, key)| {
        let id = AccountId { upstream: Arc::clone(&upstream.name), key: n };
        Arc::new(Account { id, upstream: Arc::clone(&upstream), key })
    };
    let accounts = keys.into_iter().enumerate().map(account).collect();
    UpstreamSection { upstream, accounts, models: models.unwrap_or_default(), limits, prices, retry }
}

fn limits(section: &mut Section<'_>) -> Limits {
    Limits {
        requests_per_minute: section.get("requests_per_minute", values::count),
        tokens_per_minute: section.get("tokens_per_minute", values::count),
        max_concurrent: section.get("max_concurrent", values::count),
    }
}

/// Reads `[upstreams.NAME.prices]`: a model or a pattern each.
fn prices(all: &mut Section<'_>) -> Prices {
    let each = all.each(|_, section| {
        let input = section.need("input", "input = 2.5, US$ per million tokens", values::price);
        let cached_input = section.get("cached_input", values::price);
        let output =
            section.need("output", "output = 10.0, US$ per million tokens, or 0 for embeddings", values::price);
        Price::new(input.unwrap_or_default(), cached_input, output.unwrap_or_default())
    });
    Prices::new(each.into_iter().map(|(model, price)| (model.to_owned(), price)))
}

/// Reads `[upstreams.NAME.headers]`. Values may be secrets: given by reference like keys, and never shown.
fn headers(section: &mut Section<'_>) -> Headers {
    let mut headers: Vec<(http::header::HeaderName, HeaderValue)> = Vec::new();
    for key in section.names() {
        let origin = section.origin_of(key);
        let value = section.secret(key, values::check_header_value);
        let name = match values::header_name(key) {
            Ok(name) if headers.iter().any(|(other, _)| *other == name) => {
                Err("names the same header as another key, in other letters; remove one")
            }
            named => named,
        };
        match name {
            Ok(name) => {
                if let Some(mut value) = value.and_then(|value| HeaderValue::from_str(value.expose()).ok()) {
                    value.set_sensitive(true);
                    headers.push((name, value));
                }
            }
            Err(fault) => section.problem(key, origin, fault),
        }
    }
    headers.into_iter().collect()
}

/// Reads `[routes]`; `upstreams` are the names a target may have.
pub(super) fn read_routes(all: &mut Section<'_>, upstreams: &[&str]) -> BTreeMap<String, Vec<Target>> {
    let routes = all.each(|name, section| {
        if let Some(fault) = route_fault(name, upstreams) {
            section.problem_here(fault);
        }
        let is_complete = section.is_complete();
        let targets =
            section.need("targets", "targets = [\"UPSTREAM/MODEL\"], tried in order", |entries: Vec<String>| {
                targets(&entries, upstreams, is_complete)
            });
        targets.unwrap_or_default()
    });
    routes.into_iter().map(|(name, targets)| (name.to_owned(), targets)).collect()
}

/// Why a route cannot have this name, if so.
fn route_fault(name: &str, upstreams: &[&str]) -> Option<String> {
    if let Some(fault) = values::model_fault(name) {
        return Some(fault.to_owned());
    }
    if name.contains('*') {
        return Some("a route is one name, not a pattern; take out the *".into());
    }
    let (first, _) = name.split_once('/')?;
    upstreams.contains(&first).then(|| {
        format!("hides that model of upstream {first}; give the route a name that does not begin with {first}/")
    })
}

fn targets(entries: &[String], upstreams: &[&str], is_complete: bool) -> Result<Vec<Target>, String> {
    let mut targets: Vec<Target> = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        let wrong = |fault: String| format!("entry {} {entry:?} {fault}", n + 1);
        let (upstream, model) =
            entry.split_once('/').ok_or_else(|| wrong("names no upstream; write \"UPSTREAM/MODEL\"".into()))?;
        if let Some(fault) = values::model_fault(model) {
            return Err(wrong(fault.into()));
        }
        if model.contains('*') {
            return Err(wrong("is a pattern; name one model".into()));
        }
        if is_complete && !upstreams.contains(&upstream) {
            let fix = match super::check::did_you_mean(upstream, upstreams.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}/{model}\"?"),
                None => format!("add [upstreams.{upstream}] or name one of {}", upstreams.join(", ")),
            };
            return Err(wrong(format!("is of no upstream here; {fix}")));
        }
        let target = (Arc::from(upstream), Arc::from(model));
        if targets.contains(&target) {
            return Err(wrong("is there twice; remove one".into()));
        }
        targets.push(target);
    }
    if targets.is_empty() {
        return Err("is empty; list at least one \"UPSTREAM/MODEL\"".into());
    }
    Ok(targets)
}
