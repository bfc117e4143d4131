//! How many prefixes a neighbour may give: when a warning is due, and when it is too many. Pure.

use crate::api::{MaxPrefixes, MaxPrefixesAction};
use crate::fsm::PrefixLimit;
use crate::types::Family;

/// How near a neighbour is to a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Below,
    /// Past the warning's percentage.
    Near,
    Past,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, or nothing new.
    Fine,
    /// Say that it comes near the limit.
    Near,
    /// Say that it is past a limit that only warns.
    Past,
    /// End the session.
    Over(PrefixLimit),
}

/// Of one neighbour.
#[derive(Debug, Default)]
pub(super) struct Watermarks([Level; 2]);

impl Watermarks {
    /// Judges that `held` prefixes of `family` are held; each step up is told once.
    pub fn judge(&mut self, limits: &MaxPrefixes, family: Family, held: usize) -> Verdict {
        let limit = limits.limit(family);
        let (held, whole) = (held as u64, u64::from(limit));
        let level = if held > whole {
            Level::Past
        } else if held * 100 >= whole * u64::from(limits.warn_percent) {
            Level::Near
        } else {
            Level::Below
        };
        let before = std::mem::replace(&mut self.0[family as usize], level);
        match level {
            Level::Past if limits.action == MaxPrefixesAction::Cease => {
                Verdict::Over(PrefixLimit { family, limit, restart_after: limits.restart_after })
            }
            Level::Past if before < level => Verdict::Past,
            Level::Near if before < level => Verdict::Near,
            Level::Past | Level::Near | Level::Below => Verdict::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::Ipv4;

    #[test]
    fn each_step_towards_a_limit_is_told_once_until_it_is_left_again() {
        let limits = MaxPrefixes { ipv4: 100, action: MaxPrefixesAction::Warn, ..MaxPrefixes::default() };
        let mut marks = Watermarks::default();
        let mut judge = |held| marks.judge(&limits, V4, held);
        let told = [74, 75, 80, 100, 101, 500, 100, 101, 10, 75].map(&mut judge);
        use Verdict::{Fine, Near, Past};
        assert_eq!(told, [Fine, Near, Fine, Fine, Past, Fine, Fine, Past, Fine, Near]);
    }

    #[test]
    fn one_more_than_the_limit_is_too_many_and_each_family_has_its_own() {
        let limits = MaxPrefixes { ipv4: 10, ipv6: 20, restart_after: Some(30), ..MaxPrefixes::default() };
        let mut marks = Watermarks::default();
        assert_eq!(marks.judge(&limits, Family::Ipv6, 11), Verdict::Fine);
        assert_eq!(marks.judge(&limits, V4, 10), Verdict::Near);
        let over = PrefixLimit { family: V4, limit: 10, restart_after: Some(30) };
        assert_eq!(marks.judge(&limits, V4, 11), Verdict::Over(over));
    }
}
