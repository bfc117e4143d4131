//! A picture drawn as SVG: no script, no font but the viewer's own, readable on dark and light ground.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layout::Rows;
use super::{Picture, Style, card};

/// All lengths are in SVG user units, a pixel at the picture's own size.
const BOX_WIDTH: f32 = 190.0;
const LINE: f32 = 18.0;
const GAP: f32 = 44.0;
const MARGIN: f32 = 40.0;
const TITLE: f32 = 44.0;
/// Between two rows; room for cables, and for sessions to bend.
const ROW_GAP: f32 = 84.0;
const BAR: f32 = 24.0;

const STYLE: &str = "\
text{font-family:ui-sans-serif,system-ui,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;font-size:13px;fill:#1f2a37}\
.bg{fill:#fbfcfd}.box{fill:#fff;stroke:#93a1b3;stroke-width:1.2}.manx{stroke:#7a4fc4;stroke-width:1.8}\
.router{stroke:#1d6fa5;stroke-width:1.8}.bar{fill:#dfe5ec;stroke:#93a1b3}.name{font-weight:600;font-size:15px}\
.kind{fill:#64748b;font-size:12px}.address,.block,.port{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}\
.block{fill:#7a4fc4}.dead{fill:#c0392b}.port{fill:#64748b;font-size:10px;paint-order:stroke;stroke:#fbfcfd;stroke-width:4px}.cable{stroke:#b4bfcc;stroke-width:3;fill:none}\
.up{stroke:#2e9e5b;stroke-width:1.6;fill:none}.not-up{stroke:#d64545;stroke-width:1.8;stroke-dasharray:6 4;fill:none}\
.title{font-size:18px;font-weight:600}";

/// Draws a picture.
pub fn svg(picture: &Picture) -> String {
    let rows = Rows::of(picture);
    let places = Places::of(picture, &rows);
    let (width, height) = (places.width, places.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\"><style>{STYLE}</style><rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>"
    );
    let _ = write!(out, "<text class=\"title\" x=\"{MARGIN}\" y=\"30\">{}</text>", escape(&title(picture)));
    draw_cables(&mut out, picture, &places);
    for name in &rows.switches {
        draw_switch(&mut out, name, places.all[name]);
    }
    draw_sessions(&mut out, picture, &places);
    for name in rows.boxes().into_iter().flatten() {
        draw_box(&mut out, picture, name, places.all[name]);
    }
    draw_legend(&mut out, picture, height);
    out.push_str("</svg>\n");
    out
}

fn title(picture: &Picture) -> String {
    if !picture.live {
        return picture.name.clone();
    }
    let up = picture.sessions.values().filter(|session| session.is_up()).count();
    format!("{} · {up} of {} sessions established", picture.name, picture.sessions.len())
}

#[derive(Clone, Copy)]
struct Place {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
    row: usize,
}

impl Place {
    fn middle(&self) -> f32 {
        self.x + self.width / 2.0
    }

    fn bottom(&self) -> f32 {
        self.y + self.height
    }
}

/// Where everything stands.
struct Places<'a> {
    all: BTreeMap<&'a str, Place>,
    width: f32,
    height: f32,
}

impl<'a> Places<'a> {
    fn of(picture: &'a Picture, rows: &Rows<'a>) -> Self {
        let widest = rows.boxes().iter().map(|row| row.len()).max().unwrap_or_default().max(1);
        let inner = widest as f32 * (BOX_WIDTH + GAP) - GAP;
        let mut all = BTreeMap::new();
        let mut y = TITLE + 12.0;
        for (row, names) in rows.boxes().into_iter().enumerate() {
            if row == 2 {
                for name in &rows.switches {
                    all.insert(*name, Place { x: MARGIN, y, width: inner, height: BAR, row });
                    y += BAR + ROW_GAP / 2.0;
                }
            }
            let spare = inner - (names.len() as f32 * (BOX_WIDTH + GAP) - GAP);
            let step = (BOX_WIDTH + GAP) + if names.len() > 1 { spare / names.len() as f32 } else { 0.0 };
            let first = MARGIN + (inner - (step * names.len() as f32 - (step - BOX_WIDTH))) / 2.0;
            let lines = |name: &&str| card(name, &picture.nodes[*name]).1.len();
            let height = names.iter().map(lines).max().map(|lines| lines as f32 * LINE + 34.0);
            for (index, name) in names.iter().enumerate() {
                let place = Place {
                    x: first + index as f32 * step,
                    y,
                    width: BOX_WIDTH,
                    height: height.unwrap_or_default(),
                    row,
                };
                all.insert(*name, place);
            }
            y += height.map_or(0.0, |height| height + ROW_GAP);
        }
        Self { all, width: inner + 2.0 * MARGIN, height: y + 20.0 }
    }
}

fn draw_cables(out: &mut String, picture: &Picture, places: &Places) {
    for [(a, a_port), (b, b_port)] in &picture.cables {
        let (mut upper, mut lower) = ((places.all[a.as_str()], a_port), (places.all[b.as_str()], b_port));
        if lower.0.y < upper.0.y {
            (upper, lower) = (lower, upper);
        }
        let ((up, up_port), (low, low_port)) = (upper, lower);
        if up.y == low.y {
            let (left, right) = if up.x < low.x { (up, low) } else { (low, up) };
            let y = left.y + left.height / 2.0;
            let _ = write!(out, "<path class=\"cable\" d=\"M{} {y}H{}\"/>", left.x + left.width, right.x);
            continue;
        }
        // A bar is met at right angles.
        let is_bar = |place: &Place| place.height == BAR;
        let from = if is_bar(&up) { low.middle() } else { up.middle() };
        let to = if is_bar(&low) { up.middle() } else { low.middle() };
        let _ = write!(out, "<path class=\"cable\" d=\"M{from} {}L{to} {}\"/>", up.bottom(), low.y);
        let mut port = |name: &str, x: f32, y: f32| {
            let _ = write!(out, "<text class=\"port\" x=\"{}\" y=\"{y}\">{}</text>", x + 6.0, escape(name));
        };
        if !is_bar(&up) {
            let lean = (to - from) * 14.0 / (low.y - up.bottom());
            port(up_port, from + lean, up.bottom() + 14.0);
        }
        if !is_bar(&low) {
            let lean = (to - from) * 8.0 / (low.y - up.bottom());
            port(low_port, to - lean, low.y - 8.0);
        }
    }
}

/// Sessions leave a box at its upper or lower edge, in the order of the boxes they go to, so that they
/// cross little. Sessions within a row run below it.
fn draw_sessions(out: &mut String, picture: &Picture, places: &Places) {
    let foot = |name: &str, other: &str| -> f32 {
        let place = places.all[name];
        let upwards = |other: &str| places.all[other].y < place.y;
        let ends = picture.sessions.keys().flat_map(|(a, b)| [(a, b), (b, a)]);
        let mut others: Vec<&str> =
            ends.filter(|(own, _)| *own == name).map(|(_, other)| other.as_str()).collect();
        others.retain(|candidate| upwards(candidate) == upwards(other));
        others.sort_by(|a, b| places.all[a].x.total_cmp(&places.all[b].x));
        let index = others.iter().position(|candidate| *candidate == other).unwrap_or_default();
        place.x + place.width * (index as f32 + 1.0) / (others.len() as f32 + 1.0)
    };
    for ((a, b), session) in &picture.sessions {
        let (pa, pb) = (places.all[a.as_str()], places.all[b.as_str()]);
        let (xa, xb) = (foot(a, b), foot(b, a));
        let class = if session.is_up() { "up" } else { "not-up" };
        let path = if pa.row == pb.row {
            let depth = pa.bottom() + 22.0 + 0.10 * (xa - xb).abs();
            format!("M{xa} {}C{xa} {depth} {xb} {depth} {xb} {}", pa.bottom(), pb.bottom())
        } else {
            let ((x1, upper), (x2, lower)) =
                if pa.y < pb.y { ((xa, pa), (xb, pb)) } else { ((xb, pb), (xa, pa)) };
            let half = f32::midpoint(upper.bottom(), lower.y);
            format!("M{x1} {}C{x1} {half} {x2} {half} {x2} {}", upper.bottom(), lower.y)
        };
        let told = escape(&format!("{a} – {b}: {}", session.state));
        let _ = write!(out, "<path class=\"{class}\" d=\"{path}\"><title>{told}</title></path>");
    }
}

fn draw_switch(out: &mut String, name: &str, place: Place) {
    let Place { x, y, width, height, .. } = place;
    let _ = write!(
        out,
        "<rect class=\"bar\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\
         <text class=\"kind\" x=\"{}\" y=\"{}\">{}</text>",
        x + 12.0,
        y + 16.0,
        escape(name)
    );
}

fn draw_box(out: &mut String, picture: &Picture, name: &str, place: Place) {
    use crate::topology::Runs;
    let node = &picture.nodes[name];
    let class = match node.runs {
        Runs::Manx | Runs::ManxBgpd => "box manx",
        Runs::Frr | Runs::Bird | Runs::Bird1 | Runs::Gobgp | Runs::Openbgpd | Runs::Exabgp => "box router",
        Runs::Host | Runs::KubeApiserver | Runs::Bridge => "box",
    };
    let Place { x, y, width, height, .. } = place;
    let (title, lines) = card(name, node);
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\
         <text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
        x + 12.0,
        y + 22.0,
        escape(&title)
    );
    for (index, (style, line)) in lines.iter().enumerate() {
        let class = match style {
            Style::Kind => "kind",
            Style::Address => "address",
            Style::Block => "block",
            Style::Dead => "dead",
        };
        let y = y + 41.0 + index as f32 * LINE;
        let _ = write!(
            out,
            "<text class=\"{class}\" xml:space=\"preserve\" x=\"{}\" y=\"{y}\">{}</text>",
            x + 12.0,
            escape(line)
        );
    }
}

fn draw_legend(out: &mut String, picture: &Picture, height: f32) {
    let y = height - 20.0;
    let mut entries = vec![("cable", "cable")];
    if picture.live {
        entries.extend([("up", "BGP session, established"), ("not-up", "BGP session, not established")]);
    }
    let mut x = MARGIN;
    for (class, words) in entries {
        let _ = write!(
            out,
            "<path class=\"{class}\" d=\"M{x} {y}h34\"/><text class=\"kind\" x=\"{}\" y=\"{}\">{words}</text>",
            x + 42.0,
            y + 4.0
        );
        x += 62.0 + words.len() as f32 * 7.0;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_session_is_drawn_with_its_state() {
        let drawn = svg(&super::super::example());
        for part in [
            "<title>a – b: Established</title>",
            "<title>a – tor: Active</title>",
            ">▣ 10.244.0.0/26<",
            ">client<",
        ] {
            assert!(drawn.contains(part), "{part} is not in {drawn}");
        }
        assert_eq!(drawn.matches("class=\"up\" d=\"M").count(), 2, "one session and its legend");
        assert_eq!(escape("<&>"), "&lt;&amp;&gt;");
    }
}
