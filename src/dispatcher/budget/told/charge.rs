//! What a provider charges for an answer: what it turned out to be, or what was reserved for it, all that it was allowed to
//! become. Nobody says which; it shows in how much is gone where answers are shorter than they might have been.

/// Sums less apart than this share of the smaller say nothing.
const APART: f64 = 0.05;

/// A sign moves the belief by this share.
const SHARE: f64 = 0.2;

/// Another belief takes some three signs more for it than against it.
const SURE: f64 = 0.4;

/// Between -1 (answers as they turned out) and 1 (as they were reserved).
#[derive(Debug, Default)]
pub(super) struct Charge(f64);

/// What our own sends come to, answers taken as they turned out, and as they were reserved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) used: f64,
    pub(super) reserved: f64,
}

impl Sums {
    /// Whether so much gone is nearer to what was reserved. `None` where that is the same, and where others have taken some.
    pub(super) fn is_reserved(self, gone: f64) -> Option<bool> {
        let apart = self.reserved - self.used;
        let says = apart > APART * self.used && gone > 0.0 && gone < self.reserved + 0.5 * apart;
        says.then_some(gone > self.used + 0.5 * apart)
    }
}

impl Charge {
    /// There was a sign. Gives what is believed now, where that is sure.
    pub(super) fn hear(&mut self, is_reserved: bool) -> Option<bool> {
        self.0 += SHARE * (if is_reserved { 1.0 } else { -1.0 } - self.0);
        (self.0.abs() > SURE).then_some(self.0 > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_shows_how_answers_are_charged_where_they_are_shorter_than_reserved() {
        let sums = Sums { used: 100.0, reserved: 160.0 };
        let says = [90.0, 120.0, 140.0, 165.0, 300.0, -50.0].map(|gone| sums.is_reserved(gone));
        assert_eq!(says, [Some(false), Some(false), Some(true), Some(true), None, None]);
        assert_eq!(Sums { used: 100.0, reserved: 103.0 }.is_reserved(103.0), None);
    }

    #[test]
    fn one_sign_changes_no_belief() {
        let mut charge = Charge::default();
        let believed = [true, true, true, false].map(|sign| charge.hear(sign));
        assert_eq!(believed, [None, None, Some(true), None]);
        assert_eq!([false; 6].map(|sign| charge.hear(sign))[4..], [Some(false); 2]);
    }
}
