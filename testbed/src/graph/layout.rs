//! Which node stands in which row, the same in both drawings.

use super::Picture;
use crate::topology::Runs;

/// The rows of a picture, from top to bottom; names in order, rows may be empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows<'a> {
    /// Nodes on no switch: what lies behind the routers.
    pub far: Vec<&'a str>,
    /// Routers.
    pub routers: Vec<&'a str>,
    /// Switches, drawn as bars.
    pub switches: Vec<&'a str>,
    /// All else: nodes and hosts on the switches.
    pub near: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    pub fn of(picture: &'a Picture) -> Self {
        let is_switch = |name: &str| picture.nodes.get(name).is_some_and(|node| node.runs == Runs::Bridge);
        let on_switch = |name: &str| {
            picture
                .cables
                .iter()
                .any(|[(a, _), (b, _)]| (a == name && is_switch(b)) || (b == name && is_switch(a)))
        };
        let mut rows = Self { far: vec![], routers: vec![], switches: vec![], near: vec![] };
        for (name, node) in &picture.nodes {
            let row = match node.runs {
                Runs::Bridge => &mut rows.switches,
                Runs::Frr | Runs::Bird | Runs::Bird1 | Runs::Gobgp | Runs::Openbgpd | Runs::Exabgp => {
                    &mut rows.routers
                }
                _ if on_switch(name) => &mut rows.near,
                Runs::Manx | Runs::ManxBgpd | Runs::KubeApiserver => &mut rows.near,
                Runs::Host => &mut rows.far,
            };
            row.push(name.as_str());
        }
        rows
    }

    /// The rows of boxes, in order, without the switches.
    pub fn boxes(&self) -> [&[&'a str]; 3] {
        [&self.far, &self.routers, &self.near]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_stand_above_the_switch_and_what_is_behind_them_above_the_routers() {
        let picture = super::super::example();
        let expected =
            Rows { far: vec!["client"], routers: vec!["tor"], switches: vec!["rack"], near: vec!["a", "b"] };
        assert_eq!(Rows::of(&picture), expected);
    }
}
