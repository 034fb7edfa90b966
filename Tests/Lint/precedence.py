"""Finds shifts that are mixed with arithmetic without brackets.

Swift binds a shift tighter than multiplication, C looser than addition: `count * 8 >> bits` is `count * (8 >> bits)`
in Swift, and nobody sees it. With brackets every reader sees the same.
"""
import re

TOKEN = re.compile(r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<text>\"{3}.*?\"{3}|\#"(?:.*?)"\#|"(?:\\.|[^"\\\n])*")
  | (?P<newline>\n)
  | (?P<operator>[-+*/%&|^~!<>=.?]+)
  | (?P<open>[(\[{]) | (?P<close>[)\]}])
  | (?P<end>[,;:])
  | (?P<word>[\w$@\#`]+)
""", re.X | re.S)
SHIFTS = {"<<", ">>", "&<<", "&>>"}
ARITHMETIC = {"+", "-", "*", "/", "%", "&+", "&-", "&*"}
# What parts an expression from the next: everything that binds looser than arithmetic.
LOOSE = {"=", "==", "!=", "<", ">", "<=", ">=", "&&", "||", "??", "?", "->", "...", "..<", "~=", "===", "!==",
         "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
KEYWORDS = {"return", "case", "let", "var", "in", "if", "guard", "else", "where", "while", "for", "try", "await"}


def is_binary(text, match):
    """A binary operator has a blank on both sides; a prefix or generic bracket hasn't."""
    before = text[match.start() - 1] if match.start() else " "
    after = text[match.end()] if match.end() < len(text) else " "
    return before.isspace() and after.isspace()


def faults_of(text):
    """The lines on which a shift and arithmetic stand in one expression without brackets between them."""
    # For each open bracket: the lines of shifts and whether there is arithmetic, in the expression under way.
    levels = [([], False)]
    found = []

    def end():
        shifts, has_arithmetic = levels[-1]
        if has_arithmetic:
            found.extend(shifts)
        levels[-1] = ([], False)

    line, continues = 1, True
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "newline":
            line += 1
            following = text[match.end():].lstrip(" ")
            if not continues and not re.match(r"[-+*/%&|^<>=?]+\s", following):
                end()
            continue
        if kind in ("comment", "text"):
            line += token.count("\n")
            continues = continues if kind == "comment" else False
            continue
        continues = False
        if kind == "open":
            levels.append(([], False))
            continues = True
        elif kind == "close":
            end()
            if len(levels) > 1:
                levels.pop()
        elif kind == "end" or (kind == "word" and token in KEYWORDS) or (kind == "operator" and token in LOOSE):
            end()
            continues = True
        elif kind == "operator" and is_binary(text, match):
            continues = True
            shifts, has_arithmetic = levels[-1]
            if token in SHIFTS:
                levels[-1] = (shifts + [line], has_arithmetic)
            elif token in ARITHMETIC:
                levels[-1] = (shifts, True)
    end()
    return sorted(set(found))


# The rule itself, held to what it must find and what it must leave alone.
assert faults_of("let a = count * 8 >> bits") == [1]
assert faults_of("let a = b\n  + c << 2\n") == [2]
assert faults_of("f(x, (a + b) >> c, d + 1)\nlet s = a >> 1 | b << 2 & c\nlet t: [Set<A<B>>] = c + d") == []
