//! A BGPFilter: rules of the speaker, in order.

use std::net::IpAddr;

use manx_bgp::api::community::{CommunityPattern, CommunityValue};
use manx_bgp::api::{Match, Outcome, PathMatch, PrefixRange, Rule, Source as RouteSource, Then};
use manx_bgp::types::Asn;

use super::field::{interface, parsed, prefix};
use crate::crd::{self, BGPFilterSpec};
use crate::model::{Bad, Filter, FilterRule};

impl TryFrom<&BGPFilterSpec> for Filter {
    type Error = Bad;

    fn try_from(spec: &BGPFilterSpec) -> Result<Self, Bad> {
        let import = spec
            .import
            .iter()
            .enumerate()
            .map(|(index, rule)| filter_rule(&format!("spec.import[{index}]"), rule, None));
        let export = spec.export.iter().enumerate().map(|(index, rule)| {
            filter_rule(&format!("spec.export[{index}]"), rule, Some(RouteSource::Originated))
        });
        Ok(Self { import: import.collect::<Result<_, Bad>>()?, export: export.collect::<Result<_, Bad>>()? })
    }
}

/// `unsaid`: where a route begins that the rule says nothing of.
fn filter_rule(at: &str, rule: &crd::FilterRule, unsaid: Option<RouteSource>) -> Result<FilterRule, Bad> {
    let matches = &rule.matches;
    let set = rule.set.clone().unwrap_or_default();
    if rule.set.is_some() && rule.action == crd::FilterAction::Reject {
        return Err(Bad::new("NothingToSet", format_args!("{at}.set: a rejected route has nothing set")));
    }
    let next_hop = set.next_hop.as_deref().map(|text| match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Ok(address),
        _ => {
            Err(Bad::new("InvalidAddress", format_args!("{at}.set.nextHop: \"{text}\" is nobody's address")))
        }
    });
    let field = |name: &str| format!("{at}.{name}");
    let values =
        |name: &str, texts: &[String]| parsed::<_, CommunityValue>("InvalidCommunity", &field(name), texts);
    let patterns =
        |name: &str, texts: &[String]| parsed::<_, CommunityPattern>("InvalidCommunity", &field(name), texts);
    let path = matches.as_path.clone().unwrap_or_default();
    let prefixes = matches.prefixes.iter().map(|range| prefix_range(&field("match.prefixes"), range));
    Ok(FilterRule {
        interface: matches
            .interface
            .as_deref()
            .map(|name| interface(&field("match.interface"), name))
            .transpose()?,
        rule: Rule {
            name: if rule.name.is_empty() {
                at.trim_start_matches("spec.").to_owned()
            } else {
                rule.name.clone()
            },
            matches: Match {
                prefixes: prefixes.collect::<Result<_, Bad>>()?,
                communities: patterns("match.communities", &matches.communities)?,
                as_path: PathMatch {
                    contains: path.contains.into_iter().map(Asn).collect(),
                    originates: path.originates.into_iter().map(Asn).collect(),
                    min_length: path.min_length.map(usize::from),
                    max_length: path.max_length.map(usize::from),
                },
                next_hop: matches
                    .next_hop
                    .iter()
                    .map(|text| prefix(&field("match.nextHop"), text))
                    .collect::<Result<_, Bad>>()?,
                peer: Vec::new(),
                source: match matches.source {
                    None => unsaid,
                    Some(crd::FilterSource::Originated) => Some(RouteSource::Originated),
                    Some(crd::FilterSource::Learned) => Some(RouteSource::Learned),
                    Some(crd::FilterSource::Any) => None,
                },
            },
            then: Then {
                verdict: match rule.action {
                    crd::FilterAction::Accept => Outcome::Accept,
                    crd::FilterAction::Reject => Outcome::Reject,
                    crd::FilterAction::Next => Outcome::Next,
                },
                set_communities: set
                    .communities
                    .as_deref()
                    .map(|texts| values("set.communities", texts))
                    .transpose()?,
                remove_communities: patterns("set.removeCommunities", &set.remove_communities)?,
                add_communities: values("set.addCommunities", &set.add_communities)?,
                local_pref: set.local_pref,
                med: set.med,
                prepend: set.prepend.unwrap_or_default(),
                next_hop: next_hop.transpose()?,
            },
        },
    })
}

fn prefix_range(field: &str, range: &crd::FilterPrefix) -> Result<PrefixRange, Bad> {
    let within = prefix(field, &range.cidr)?;
    // The speaker's own form has the checks, and the words.
    let written = serde_json::json!({ "prefix": within, "ge": range.min_length, "le": range.max_length });
    serde_json::from_value(written)
        .map_err(|error| Bad::new("InvalidLength", format_args!("{field}: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{bgp_filter, object};
    use super::*;

    #[test]
    fn a_filter_becomes_rules_of_the_speaker_in_order() {
        let spec = json!({
            "import": [
                {"match": {"prefixes": [{"cidr": "0.0.0.0/0"}], "interface": "eth1"}, "action": "Reject"},
                {"name": "near", "match": {"asPath": {"originates": [65001], "maxLength": 2}},
                    "set": {"localPref": 200, "addCommunities": ["64512:1:2"]}, "action": "Next"},
            ],
            "export": [
                {"match": {"prefixes": [{"cidr": "10.0.0.0/8", "minLength": 24}]}, "set": {"med": 5, "prepend": 2}},
                {"match": {"source": "Any", "communities": ["64512:*"]}},
            ],
        });
        let filter = bgp_filter(object(json!({"metadata": {"name": "f"}, "spec": spec}))).spec.unwrap();
        assert_eq!(filter.import[0].interface.unwrap().as_str(), "eth1");
        assert_eq!(filter.import[0].rule.name, "import[0]");
        assert_eq!(filter.import[0].rule.then.verdict, Outcome::Reject);
        assert_eq!(filter.import[1].rule.then.local_pref, Some(200));
        assert_eq!(filter.import[1].rule.matches.source, None);
        let lengths = filter.export[0].rule.matches.prefixes[0].lengths();
        assert_eq!((lengths, filter.export[0].rule.then.prepend), ((24, 32), 2));
        let sources: Vec<_> = filter.export.iter().map(|rule| rule.rule.matches.source).collect();
        assert_eq!(
            sources,
            [Some(RouteSource::Originated), None],
            "nothing learned is handed on unless it is said"
        );
    }

    #[test]
    fn a_bad_filter_is_refused_in_words() {
        for (rule, reason, words) in [
            (
                json!({"match": {"prefixes": [{"cidr": "10.0.0.1/8"}]}}),
                "InvalidCIDR",
                "spec.import[0].match.prefixes",
            ),
            (
                json!({"match": {"prefixes": [{"cidr": "10.0.0.0/8", "maxLength": 33}]}}),
                "InvalidLength",
                "from 8 to 32",
            ),
            (json!({"match": {"communities": ["1"]}}), "InvalidCommunity", "expected a community"),
            (json!({"set": {"addCommunities": ["1:*"]}}), "InvalidCommunity", "expected asn:value"),
            (json!({"set": {"nextHop": "0.0.0.0"}}), "InvalidAddress", "nobody's"),
            (json!({"set": {"med": 1}, "action": "Reject"}), "NothingToSet", "rejected"),
            (json!({"action": "Drop"}), "Malformed", "Drop"),
        ] {
            let object = object(json!({"metadata": {"name": "f"}, "spec": {"import": [rule]}}));
            let bad = bgp_filter(object).spec.unwrap_err();
            assert_eq!(bad.reason, reason);
            assert!(bad.message.contains(words), "{} does not say {words}", bad.message);
        }
    }
}
