//! What was learned of a provider's limits, as it is shown and kept: ages and waits in seconds, no moments of a clock
//! that a restart sets back.

use serde::{Deserialize, Serialize};

use super::{Dimension, Scope};

/// How a provider counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimiterKind {
    /// It fills all the time.
    Bucket,
    /// What was used comes back after the period, bit by bit or as a whole.
    Window,
    /// A window too long to wait through bit by bit: a day's quota.
    Quota,
}

/// What is known of the limits of one account for one model, by the provider's word or from its refusals.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LearnedModel {
    /// The model by its name at the upstream; `None` for calls without one, `*` for all names beyond the first 256.
    pub model: Option<String>,
    /// Since the last call was sent.
    pub idle_s: Option<f64>,
    /// A guess has kept a call back since then.
    pub is_kept_back: bool,
    /// What estimates of tokens are multiplied with, from what was charged.
    pub input_times: f64,
    /// The same of what comes out, which is estimated by its limit.
    pub output_times: f64,
    /// The budgets, each with whose limit it is.
    pub budgets: Vec<LearnedBudget>,
    /// A refusal that teaches a limit when another comes at a like rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lone_refusal: Option<LoneRefusal>,
    /// Refusals that are the provider's faults, not of a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<UsualFaults>,
    /// Whether a silent provider's refusals are such faults, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspected: Option<InspectedRefusals>,
    /// The model's quota of the day is used up for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day_used_up_for_s: Option<f64>,
}

/// A refusal by a silent provider.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoneRefusal {
    /// Since then.
    pub s_ago: f64,
    /// What was delivered of requests.
    pub requests_per_minute: f64,
    /// What was delivered of tokens.
    pub tokens_per_minute: f64,
}

/// What is refused for no limit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UsualFaults {
    /// Of all calls, from 0 to 1.
    pub share: f64,
    /// Since that was found out.
    pub s_ago: f64,
}

/// Calls and refusals of a provider that tells of no limit.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InspectedRefusals {
    /// Since a limit that is guessed was first cut.
    pub s_ago: f64,
    /// The logarithm of how much likelier it is that they are faults.
    pub doubt: f64,
    /// Calls that went since that was 0.
    pub calls: u32,
    /// Those of them that were refused; of some in a row one counts.
    pub refused: u32,
    /// Since the last refusal.
    pub refused_s_ago: Option<f64>,
}

/// A budget that the provider keeps, by whose word.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "whose", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LearnedBudget {
    /// The provider tells of it.
    Told(ToldBudget),
    /// The provider is silent: from the configured cap on, or from its refusals.
    Guessed(GuessedBudget),
    /// It refuses although by its own word there is room: it counts over a shorter window, too.
    Hidden(GuessedBudget),
    /// It said that traffic grew too fast.
    Growth(GrowthBudget),
}

/// A budget that the provider tells of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToldBudget {
    /// What it counts.
    pub counts: Dimension,
    /// Which of several it is.
    pub scope: Scope,
    /// How it counts, as far as has shown.
    pub kind: LimiterKind,
    /// The limit.
    pub limit: u64,
    /// Over what it counts.
    pub period_s: f64,
    /// What is believed to be left now; below nothing when more was used than the provider knows of yet.
    pub left: f64,
    /// So much is kept back: the belief was wrong by that of late.
    pub margin: f64,
    /// What others of the account use: of a bucket per second, of a window within its period.
    pub others: f64,
    /// When it is whole again, where that is waited for; negative when it has come back since the provider last spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_in_s: Option<f64>,
    /// Since the send whose response said so last.
    pub heard_s_ago: f64,
    /// Until the next call of low priority has its turn.
    pub low_turn_in_s: f64,
    /// Since the last call that was not of low priority.
    pub high_s_ago: Option<f64>,
    /// What its kind was told from.
    pub signs: KindSigns,
}

/// What an account that dislikes growth has borne.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GrowthBudget {
    /// Calls within a minute that it is believed to bear now.
    pub requests_per_minute: f64,
    /// It bears a little more than what it bore so long before.
    pub over_s: f64,
    /// Since it refused growth last.
    pub refused_s_ago: f64,
}

/// What a limiter's kind and period were told from.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KindSigns {
    /// The provider has named the period.
    pub is_named: bool,
    /// From -1 (no bucket) to 1.
    pub vote: f64,
    /// Since its first response.
    pub watched_s: f64,
    /// The longest reset it has told.
    pub longest_reset_s: f64,
    /// The shorter window that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perhaps_s: Option<f64>,
}

/// A budget that nobody tells of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuessedBudget {
    /// What it counts.
    pub counts: Dimension,
    /// What it is taken for now.
    pub limit_per_minute: f64,
    /// Over what it is kept.
    pub window_s: f64,
    /// What is left of the window now.
    pub left: f64,
    /// Where the provider refused last; until then what was configured.
    pub plateau_per_minute: f64,
    /// Until it is at the plateau again; negative since then.
    pub plateau_in_s: f64,
    /// How long the way to the plateau takes.
    pub way_back_s: f64,
    /// How long it usually takes.
    pub usual_way_back_s: f64,
    /// Known not to be exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_per_minute: Option<f64>,
    /// Since the provider refused last.
    pub refused_s_ago: Option<f64>,
    /// Until the next call of low priority has its turn.
    pub low_turn_in_s: f64,
}
