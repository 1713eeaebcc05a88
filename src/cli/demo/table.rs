//! The closing table: a row a strategy.

use super::stage::Run;
use super::tally::Loss;

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";

/// A cell: its text, and the colour it has where there are colours.
#[derive(Clone, Debug, PartialEq)]
struct Cell(String, Option<&'static str>);

/// A column: its heading's two lines, and what a run has there.
struct Column(&'static str, &'static str, fn(&Run) -> Cell);

fn plain(text: impl ToString) -> Cell {
    Cell(text.to_string(), None)
}

/// A number that should be none.
fn bad(count: u64) -> Cell {
    Cell(count.to_string(), Some(if count == 0 { GREEN } else { RED }))
}

/// The strategy's name stands before these.
const COLUMNS: [Column; 13] = [
    Column("", "calls", |run| plain(run.tally.calls())),
    Column("", "answered", |run| plain(run.tally.answered())),
    Column("", "lost:", |run| bad(run.tally.lost())),
    Column("", "reset", |run| plain(run.tally.lost_to(Loss::Reset))),
    Column("", "timeout", |run| plain(run.tally.lost_to(Loss::Timeout))),
    Column("", "429", |run| plain(run.tally.lost_to(Loss::Refused))),
    Column("", "5xx", |run| plain(run.tally.lost_to(Loss::Broken))),
    Column("", "other", |run| plain(run.tally.lost_to(Loss::Other))),
    Column("mixed", "up", |run| bad(run.tally.mixed_up())),
    Column("429s", "caused", |run| plain(run.ledger.limit_429s)),
    Column("too", "early", |run| plain(run.ledger.too_early)),
    Column("requests", "made", |run| plain(run.ledger.requests)),
    Column("", "time", |run| plain(format!("{:.1} s", run.took.as_secs_f64()))),
];

/// The table of `runs`, each line with its end.
pub(super) fn render(runs: &[Run], colours: bool) -> String {
    // Losses that fit no kind are not to be expected, and need no column where there are none.
    let others = runs.iter().any(|run| run.tally.lost_to(Loss::Other) > 0);
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.1 != "other" || others).collect();
    let heading = |text: &str| Cell(text.to_owned(), Some(BOLD));
    let mut lines = vec![
        std::iter::once(heading("")).chain(columns.iter().map(|column| heading(column.0))).collect::<Vec<_>>(),
        std::iter::once(heading("strategy")).chain(columns.iter().map(|column| heading(column.1))).collect(),
    ];
    for run in runs {
        lines.push(std::iter::once(plain(run.name)).chain(columns.iter().map(|column| (column.2)(run))).collect());
    }
    layout(&lines, colours)
}

/// Pads cells to their columns' widths: the first column to the right of its text, all others to the left.
fn layout(lines: &[Vec<Cell>], colours: bool) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| lines.iter().filter_map(|line| line.get(n)).map(|cell| cell.0.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut blank = String::new();
        for (n, Cell(words, colour)) in line.iter().enumerate() {
            let padding = " ".repeat(widths[n] - words.len());
            let words = match colour {
                Some(code) if colours && !words.is_empty() => format!("\x1b[{code}m{words}\x1b[0m"),
                _ => words.clone(),
            };
            let (before, after) =
                if n == 0 { (String::new(), padding) } else { (format!("  {padding}"), String::new()) };
            blank += &before;
            if !words.is_empty() {
                // Spaces are written only before a word, so that no line ends with any.
                text += &std::mem::take(&mut blank);
                text += &words;
            }
            blank += &after;
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tally::{Fate, Tally};
    use super::*;
    use crate::simulator::Snapshot;

    fn run(name: &'static str, fates: &[Fate]) -> Run {
        let mut tally = Tally::default();
        for fate in fates {
            tally.enter(String::new(), *fate);
        }
        let ledger = Snapshot { requests: 1_234, limit_429s: 7, ..Snapshot::default() };
        Run { name, tally, ledger, took: Duration::from_millis(12_340) }
    }

    #[test]
    fn numbers_stand_below_their_headings_and_no_line_ends_in_spaces() {
        let runs = [run("one", &[Fate::Answered, Fate::Lost(Loss::Reset)]), run("the other", &[Fate::MixedUp])];
        let expected = "\
                                                               mixed    429s    too  requests
strategy   calls  answered  lost:  reset  timeout  429  5xx     up  caused  early      made    time
one            2         1      1      1        0    0    0      0       7      0      1234  12.3 s
the other      1         0      0      0        0    0    0      1       7      0      1234  12.3 s
";
        assert_eq!(render(&runs, false).trim_start(), expected.trim_start());
    }

    #[test]
    fn a_loss_of_no_usual_kind_gets_a_column() {
        assert!(!render(&[run("one", &[])], false).contains("other"));
        assert!(render(&[run("one", &[Fate::Lost(Loss::Other)])], false).contains("  5xx  other"));
    }

    #[test]
    fn colours_change_no_width() {
        let runs = [run("one", &[Fate::Lost(Loss::Reset)]), run("other", &[Fate::Answered])];
        let coloured = render(&runs, true);
        assert!(coloured.contains("\x1b[31m1\x1b[0m") && coloured.contains("\x1b[32m0\x1b[0m"));
        let mut stripped = coloured;
        for code in [BOLD, GREEN, RED, "0"] {
            stripped = stripped.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(stripped, render(&runs, false));
    }
}
