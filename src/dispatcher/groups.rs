//! Which models' calls a lane keeps apart: the names of its upstream's models, numbered as they come.

use std::collections::HashMap;

use super::ask::Group;

/// So many names are told apart. Whoever calls an upstream of `*` may name anything: all further names share a group.
const MOST: usize = 256;

/// A name longer than this is no model's, and not worth keeping.
const LONGEST: usize = 256;

/// Calls that name no model.
const UNNAMED: Group = Group(0);

/// Calls of names beyond [`MOST`].
const OTHERS: Group = Group(1);

/// A lane's groups. A name's group stays what it is for as long as the lane lives.
#[derive(Debug, Default)]
pub(super) struct Groups(HashMap<Box<str>, Group>);

impl Groups {
    /// The group of calls to `model`, by its name at the upstream.
    pub(super) fn of(&mut self, model: Option<&str>) -> Group {
        let Some(model) = model else { return UNNAMED };
        if let Some(known) = self.0.get(model) {
            return *known;
        }
        if self.0.len() >= MOST || model.len() > LONGEST {
            return OTHERS;
        }
        let group = Group(OTHERS.0 + 1 + self.0.len() as u32);
        self.0.insert(model.into(), group);
        group
    }

    /// Each group that is one model's, or that of calls without one, and its model.
    pub(super) fn names(&self) -> HashMap<Group, Option<&str>> {
        let named = self.0.iter().map(|(name, group)| (*group, Some(&**name)));
        named.chain([(UNNAMED, None)]).collect()
    }

    /// The model of a group, where it is one's.
    pub(super) fn name(&self, group: Group) -> Option<&str> {
        self.0.iter().find(|(_, of)| **of == group).map(|(name, _)| &**name)
    }

    /// The name that a group of many models goes by where it is shown.
    pub(super) const MANY: &'static str = "*";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_group_and_names_beyond_the_most_share_one() {
        let mut groups = Groups::default();
        let first: Vec<Group> = (0..MOST).map(|n| groups.of(Some(&format!("model-{n}")))).collect();
        let apart: std::collections::BTreeSet<Group> = first.iter().copied().collect();
        assert_eq!(apart.len(), MOST);
        assert!(!apart.contains(&groups.of(None)));
        let further = groups.of(Some("one more"));
        assert_eq!(further, groups.of(Some("and another")));
        assert!(!apart.contains(&further) && further != groups.of(None));
        assert_eq!(groups.of(Some("model-7")), first[7]);
        assert_eq!(groups.0.len(), MOST);
    }

    #[test]
    fn a_name_of_any_length_is_not_kept() {
        let mut groups = Groups::default();
        assert_eq!(groups.of(Some(&"x".repeat(1_000_000))), OTHERS);
        assert!(groups.0.is_empty());
    }
}
