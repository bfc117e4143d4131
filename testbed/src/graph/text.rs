//! A picture drawn with characters, for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layout::Rows;
use super::{Picture, card};

/// Blanks between two boxes of a row.
const GAP: usize = 2;
/// Left margin; the names of the switches stand in it.
const MARGIN: usize = 2;

/// Draws a picture, at most as wide as its widest row of boxes.
pub fn text(picture: &Picture) -> String {
    let rows = Rows::of(picture);
    let cards = picture.nodes.iter().map(|(name, node)| (name.as_str(), Card::of(name, node)));
    let cards: BTreeMap<&str, Card> = cards.collect();
    let row_width = |row: &[&str]| row.iter().map(|name| cards[name].width + GAP).sum::<usize>();
    let names = rows.switches.iter().map(|name| name.len() + 4).max().unwrap_or_default();
    let width = rows.boxes().iter().map(|row| row_width(row)).max().unwrap_or_default().max(names) + MARGIN;

    let mut canvas = Canvas::default();
    let mut places: BTreeMap<&str, Place> = BTreeMap::new();
    let mut y = 0;
    for (index, row) in rows.boxes().into_iter().enumerate() {
        if index == 2 {
            for name in &rows.switches {
                canvas.write(0, y, &format!("{name} "));
                (name.len() + 1..width).for_each(|x| canvas.set(x, y, '═'));
                places.insert(name, Place { x: 0, y, width, height: 1 });
                y += 1;
            }
        }
        let spare = (width - MARGIN).saturating_sub(row_width(row));
        let mut x = MARGIN + spare / 2;
        for name in row {
            let card = &cards[name];
            canvas.draw_box(x, y, card);
            places.insert(name, Place { x, y, width: card.width, height: card.lines.len() + 2 });
            x += card.width + GAP;
        }
        let height = row.iter().map(|name| cards[name].lines.len() + 2).max();
        y += height.map_or(0, |height| height + usize::from(index == 0) * 2 + usize::from(index == 1));
    }
    for [(a, _), (b, _)] in &picture.cables {
        canvas.cable(places[a.as_str()], places[b.as_str()]);
    }
    let mut drawn = canvas.finish();
    if picture.live {
        drawn.push_str(&sessions(picture));
    }
    drawn
}

/// A line a node: its sessions, and the state of those that are not up.
fn sessions(picture: &Picture) -> String {
    let up = picture.sessions.values().filter(|session| session.is_up()).count();
    let mut text = format!("\nBGP sessions: {up} of {} established\n", picture.sessions.len());
    let width = picture.nodes.keys().map(String::len).max().unwrap_or_default();
    for name in picture.nodes.keys() {
        let own = picture.sessions.iter().filter_map(|((a, b), session)| {
            let other = if a == name {
                b
            } else if b == name {
                a
            } else {
                return None;
            };
            Some(if session.is_up() {
                format!("● {other}")
            } else {
                format!("○ {other} ({})", session.state)
            })
        });
        let own: Vec<_> = own.collect();
        if !own.is_empty() {
            let _ = writeln!(text, "  {name:width$}  {}", own.join("  "));
        }
    }
    text
}

/// What a box says.
struct Card {
    lines: Vec<String>,
    width: usize,
}

impl Card {
    fn of(name: &str, node: &super::NodePicture) -> Self {
        let (title, lines) = card(name, node);
        let lines: Vec<_> = [title].into_iter().chain(lines.into_iter().map(|(_, line)| line)).collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default() + 4;
        Self { lines, width }
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

impl Place {
    fn bottom(&self) -> usize {
        self.y + self.height - 1
    }

    fn middle(&self) -> usize {
        self.x + self.width / 2
    }
}

#[derive(Default)]
struct Canvas {
    rows: Vec<Vec<char>>,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, c: char) {
        if self.rows.len() <= y {
            self.rows.resize(y + 1, vec![]);
        }
        let row = &mut self.rows[y];
        if row.len() <= x {
            row.resize(x + 1, ' ');
        }
        row[x] = c;
    }

    fn get(&self, x: usize, y: usize) -> char {
        self.rows.get(y).and_then(|row| row.get(x)).copied().unwrap_or(' ')
    }

    fn write(&mut self, x: usize, y: usize, text: &str) {
        text.chars().enumerate().for_each(|(offset, c)| self.set(x + offset, y, c));
    }

    fn draw_box(&mut self, x: usize, y: usize, card: &Card) {
        let line = "─".repeat(card.width - 2);
        self.write(x, y, &format!("┌{line}┐"));
        for (offset, text) in card.lines.iter().enumerate() {
            self.write(x, y + 1 + offset, &format!("│ {text:<width$} │", width = card.width - 4));
        }
        self.write(x, y + 1 + card.lines.len(), &format!("└{line}┘"));
    }

    /// A cable between a box and a switch, or between boxes of two rows; beside each other, they touch.
    fn cable(&mut self, a: Place, b: Place) {
        let (upper, lower) = if a.y <= b.y { (a, b) } else { (b, a) };
        if upper.y == lower.y {
            let (left, right) = if a.x < b.x { (a, b) } else { (b, a) };
            for x in left.x + left.width..right.x {
                if self.get(x, left.y + 1) == ' ' {
                    self.set(x, left.y + 1, '─');
                }
            }
            return;
        }
        // A switch is met right below or above the box; a box in its middle, by an elbow.
        let goal = if lower.height == 1 { upper.middle() } else { lower.middle() };
        let from = if upper.height == 1 { lower.middle() } else { self.free_foot(upper, goal) };
        let to = if lower.height == 1 { from } else { lower.middle() };
        let bend = upper.bottom() + 1;
        self.join(from, upper.bottom(), if upper.height == 1 { '╤' } else { '┬' });
        if from == to {
            (bend..lower.y).for_each(|y| self.pass(from, y));
        } else {
            self.set(from, bend, if to > from { '└' } else { '┘' });
            (from.min(to) + 1..from.max(to)).for_each(|x| self.set(x, bend, '─'));
            self.set(to, bend, if to > from { '┐' } else { '┌' });
            (bend + 1..lower.y).for_each(|y| self.pass(to, y));
        }
        self.join(to, lower.y, if lower.height == 1 { '╧' } else { '┴' });
    }

    /// Where a cable leaves the lower edge of a box towards `goal`: not where another does.
    fn free_foot(&self, upper: Place, goal: usize) -> usize {
        let middle = upper.middle();
        let inside = |x: &usize| (upper.x + 1..upper.x + upper.width - 1).contains(x);
        let wanted = goal.clamp(middle.saturating_sub(3), middle + 3);
        let tries = (0..upper.width).flat_map(|offset| [wanted.saturating_sub(offset), wanted + offset]);
        tries.filter(inside).find(|x| self.get(*x, upper.bottom()) == '─').unwrap_or(middle)
    }

    fn pass(&mut self, x: usize, y: usize) {
        let c = if self.get(x, y) == '─' { '┼' } else { '│' };
        self.set(x, y, c);
    }

    fn join(&mut self, x: usize, y: usize, c: char) {
        let met = match (self.get(x, y), c) {
            ('╤', '╧') | ('╧', '╤') | ('╪', _) => '╪',
            (_, c) => c,
        };
        self.set(x, y, met);
    }

    fn finish(self) -> String {
        let lines =
            self.rows.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned() + "\n");
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_cables_sessions_and_blocks_are_drawn() {
        insta::assert_snapshot!(text(&super::super::example()));
    }
}
