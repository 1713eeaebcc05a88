//! Figures and how they are shown.

/// How thorough it is to be, and what of.
pub(crate) struct Plan {
    pub(crate) is_quick: bool,
    only: Option<String>,
}

impl Plan {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Self {
        let mut plan = Self { is_quick: false, only: None };
        for argument in arguments {
            match argument.as_str() {
                "--quick" => plan.is_quick = true,
                "--bench" => {} // what cargo itself says
                _ => plan.only = Some(argument),
            }
        }
        plan
    }

    /// Rounds of each figure.
    pub(crate) fn rounds(&self) -> usize {
        if self.is_quick { 3 } else { 9 }
    }
}

/// All figures of a run.
pub(crate) struct Figures {
    pub(crate) plan: Plan,
    is_broken: bool,
}

impl Figures {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, is_broken: false }
    }

    /// Takes the figures called `name`, when they are asked for.
    pub(crate) fn take(&mut self, name: &str, run: fn(&mut Self)) {
        if self.plan.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            println!("\n{name}");
            run(self);
        }
    }

    /// Whether a ratio missed its aim.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Shows values, of a round each.
    pub(crate) fn show(&self, label: &str, mut values: Vec<f64>, unit: &str) {
        let (median, least, greatest) = spread(&mut values);
        println!("  {label:<58} {median:>9.2} {unit:<6} [{least:.2} .. {greatest:.2}]");
    }

    /// Shows ratios, of a round each, whose median should be at most `aim`.
    pub(crate) fn compare(&mut self, label: &str, mut ratios: Vec<f64>, aim: f64) {
        let (median, least, greatest) = spread(&mut ratios);
        let broken = if median > aim { "  BROKEN" } else { "" };
        println!("  {label:<58} {median:>9.2} x      [{least:.2} .. {greatest:.2}] aim: at most {aim}{broken}");
        self.is_broken |= median > aim;
    }
}

/// Median, least, greatest.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
