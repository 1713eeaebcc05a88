//! What an upstream's models cost.

use std::collections::BTreeMap;

use super::serves::rank;
use crate::messages::Price;

/// `[upstreams.NAME.prices]`: models by their names at the upstream; an entry may end in `*`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// The price of each of these models.
    pub(super) fn new(each: impl IntoIterator<Item = (String, Price)>) -> Self {
        Self(each.into_iter().collect())
    }

    /// What a model's tokens cost: by its own name, or by the longest pattern; `None` where nobody says.
    pub fn of(&self, model: &str) -> Option<Price> {
        let ranked = self.0.iter().filter_map(|(entry, price)| Some((rank(entry, model)?, *price)));
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_itself_comes_before_the_longest_pattern() {
        let entries = [("gpt-*", 1.0), ("gpt-4o*", 2.0), ("gpt-4o", 3.0)];
        let prices = Prices::new(entries.map(|(entry, input)| (entry.to_owned(), Price::new(input, None, 0.0))));
        let input = |model| prices.of(model).map(|price| price.input);
        assert_eq!(["gpt-4o", "gpt-4o-mini", "gpt-5", "o3"].map(input), [Some(3.0), Some(2.0), Some(1.0), None]);
    }
}
