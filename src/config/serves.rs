//! Who serves a model: pure, and the only place that knows the order of ranks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Config, Target, UpstreamSection};

impl Config {
    /// Who serves `model`, to be tried in order; empty when nobody does.
    ///
    /// The first of these ranks that has anyone: a route of that name; `UPSTREAM/MODEL` of a known upstream; the exact
    /// name in `models`; the longest pattern. Several upstreams at one rank come in alphabetical order.
    pub fn targets(&self, model: &str) -> Vec<Target> {
        if let Some(targets) = self.routes.get(model) {
            return targets.clone();
        }
        if let Some((upstream, inner)) = model.split_once('/')
            && !inner.is_empty()
            && let Some((name, _)) = self.upstreams.iter().find(|(name, _)| name.as_ref() == upstream)
        {
            return vec![(Arc::clone(name), inner.into())];
        }
        let best = self.upstreams.values().filter_map(|upstream| upstream.rank(model)).max();
        let at_best = self.upstreams.iter().filter(|(_, upstream)| best.is_some() && upstream.rank(model) == best);
        at_best.map(|(name, _)| (Arc::clone(name), model.into())).collect()
    }

    /// Every name that can be asked for, patterns aside, as (name, owner), sorted. The owner is the first upstream that
    /// serves it, or `forebay` for a route.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names = BTreeMap::new();
        for (owner, upstream) in self.upstreams.iter() {
            for model in upstream.models.iter().filter(|entry| !entry.ends_with('*')) {
                names.entry(model.clone()).or_insert_with(|| owner.to_string());
            }
        }
        for route in self.routes.keys() {
            // A route none of whose targets can be used hides the model of that name: nobody serves it.
            if self.targets(route).is_empty() {
                names.remove(route);
            } else {
                names.insert(route.clone(), "forebay".to_owned());
            }
        }
        names.into_iter().collect()
    }

    /// Every pattern with the upstreams that serve it, sorted.
    pub fn patterns(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut patterns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, upstream) in self.upstreams.iter() {
            for pattern in upstream.models.iter().filter(|entry| entry.ends_with('*')) {
                patterns.entry(pattern).or_default().push(name);
            }
        }
        patterns
    }
}

impl UpstreamSection {
    /// How well `models` matches.
    fn rank(&self, model: &str) -> Option<usize> {
        self.models.iter().filter_map(|entry| rank(entry, model)).max()
    }
}

/// How well an entry of a list of models matches: the whole name beats any pattern, a longer pattern a shorter one.
pub(super) fn rank(entry: &str, model: &str) -> Option<usize> {
    match entry.strip_suffix('*') {
        Some(stem) => model.starts_with(stem).then_some(stem.len()),
        None => (entry == model).then_some(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [upstreams.b]
        base_url = "http://b"
        models = ["m", "gpt-*", "gpt-4*", "shared", "vendor/x"]
        [upstreams.a]
        base_url = "http://a"
        models = ["*", "shared", "covered"]
        [upstreams.other]
        kind = "gemini"
        base_url = "http://c"
        models = ["new-4", "shared", "gpt-4o*"]
        [routes.smart]
        targets = ["other/new-4", "b/m", "a/other"]
        [routes.covered]
        targets = ["b/m"]
    "#;

    fn serving(model: &str) -> Vec<String> {
        let config = Config::from_toml(TEXT).expect("a valid configuration");
        config.targets(model).iter().map(|(upstream, model)| format!("{upstream}/{model}")).collect()
    }

    #[test]
    fn a_route_comes_before_everything_and_keeps_its_order() {
        assert_eq!(serving("smart"), ["other/new-4", "b/m", "a/other"]);
        assert_eq!(serving("covered"), ["b/m"]);
    }

    #[test]
    fn an_upstream_can_be_addressed_with_any_model() {
        assert_eq!(serving("b/never-heard-of"), ["b/never-heard-of"]);
        assert_eq!(serving("a/x/y"), ["a/x/y"]);
    }

    #[test]
    fn a_slash_of_no_known_upstream_is_part_of_the_name() {
        assert_eq!(serving("vendor/x"), ["b/vendor/x"]);
        assert_eq!(serving("a/"), ["a/a/"]);
        assert_eq!(serving("nobody/new-4"), ["a/nobody/new-4"]);
    }

    #[test]
    fn the_exact_name_beats_any_pattern() {
        assert_eq!(serving("m"), ["b/m"]);
    }

    #[test]
    fn the_longest_pattern_wins() {
        assert_eq!(serving("gpt-4o"), ["other/gpt-4o"]);
        assert_eq!(serving("gpt-4.1"), ["b/gpt-4.1"]);
        assert_eq!(serving("other"), ["a/other"]);
    }

    #[test]
    fn upstreams_at_one_rank_come_in_alphabetical_order() {
        assert_eq!(serving("shared"), ["a/shared", "b/shared", "other/shared"]);
    }

    #[test]
    fn names_are_sorted_and_owned() {
        let config = Config::from_toml(TEXT).expect("a valid configuration");
        let names: Vec<_> = config.names().into_iter().map(|(name, owner)| format!("{name}={owner}")).collect();
        assert_eq!(names, ["covered=forebay", "m=b", "new-4=other", "shared=a", "smart=forebay", "vendor/x=b"]);
    }
}
