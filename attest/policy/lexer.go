package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"cloister.dev/cloister/evidence"
)

// kind is the kind of a lexical token.
type kind int

const (
	end kind = iota
	ident
	text
	number
	punctuation
)

// lexeme is one lexical token and where it stands, line and column counted from 1, columns in characters.
type lexeme struct {
	kind         kind
	text         string // identifiers, numbers and punctuation as written; texts without quotes and escapes
	line, column int
}

func (l lexeme) String() string {
	switch l.kind {
	case end:
		return "the end of the policy"
	case text:
		return fmt.Sprintf("%q", l.text)
	}
	return "'" + l.text + "'"
}

// mistake is a refusal that tells where in the policy it is.
func mistake(line, column int, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, fmt.Sprintf("policy line %d column %d", line, column), got, want)
}

type lexer struct {
	in           string
	at           int
	line, column int
}

// lex splits a whole policy.
func lex(in string) ([]lexeme, error) {
	if len(in) > MaxSize {
		return nil, evidence.Refuse(evidence.CodeParse, "policy", fmt.Sprintf("%d bytes", len(in)), fmt.Sprintf("at most %d", MaxSize))
	}
	if !utf8.ValidString(in) {
		return nil, evidence.Refuse(evidence.CodeParse, "policy", "bytes that are not UTF-8", "UTF-8 text")
	}
	l := &lexer{in: strings.TrimPrefix(in, "\ufeff"), line: 1, column: 1}
	var out []lexeme
	for {
		next, err := l.next()
		if err != nil {
			return nil, err
		}
		out = append(out, next)
		if next.kind == end {
			return out, nil
		}
	}
}

func (l *lexer) peek() rune {
	r, size := utf8.DecodeRuneInString(l.in[l.at:])
	if size == 0 {
		return -1
	}
	return r
}

func (l *lexer) advance() rune {
	r, size := utf8.DecodeRuneInString(l.in[l.at:])
	l.at += size
	if r == '\n' {
		l.line++
		l.column = 1
	} else {
		l.column++
	}
	return r
}

func (l *lexer) skipBlanks() {
	for {
		switch r := l.peek(); {
		case r == ' ' || r == '\t' || r == '\r' || r == '\n':
			l.advance()
		case strings.HasPrefix(l.in[l.at:], "//"):
			for l.peek() != -1 && l.peek() != '\n' {
				l.advance()
			}
		default:
			return
		}
	}
}

var punctuations = []string{"==", "!=", "=~", "!~", "<=", ">=", "=>", "&&", "=", "<", ">", "!", "[", "]", "{", "}", "(", ")", ":", ";", ",", "."}

func (l *lexer) next() (lexeme, error) {
	l.skipBlanks()
	out := lexeme{line: l.line, column: l.column}
	start := l.at
	switch r := l.peek(); {
	case r == -1:
		return out, nil
	case r == '"':
		return l.text(out)
	case isLetter(r):
		for isLetter(l.peek()) || isDigit(l.peek()) {
			l.advance()
		}
		out.kind, out.text = ident, l.in[start:l.at]
		return out, nil
	case isDigit(r) || r == '-':
		l.advance()
		for isDigit(l.peek()) || l.peek() == '.' {
			l.advance()
		}
		out.kind, out.text = number, l.in[start:l.at]
		return out, nil
	}
	for _, p := range punctuations {
		if strings.HasPrefix(l.in[l.at:], p) {
			for range p {
				l.advance()
			}
			out.kind, out.text = punctuation, p
			return out, nil
		}
	}
	return out, mistake(out.line, out.column, fmt.Sprintf("%q", l.peek()), "a policy token")
}

func (l *lexer) text(out lexeme) (lexeme, error) {
	l.advance()
	var b strings.Builder
	for {
		switch r := l.peek(); r {
		case -1, '\n':
			return out, mistake(out.line, out.column, "a text without an end", "a closing quote on the same line")
		case '"':
			l.advance()
			out.kind, out.text = text, b.String()
			return out, nil
		case '\\':
			l.advance()
			line, column := l.line, l.column
			switch e := l.peek(); e {
			case '"', '\\', '/', '\'':
				b.WriteRune(e)
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			default:
				return out, mistake(line, column, fmt.Sprintf("the escape \\%c", e), `\" \\ \/ \' \n \t or \r`)
			}
			l.advance()
		default:
			b.WriteRune(l.advance())
		}
	}
}

func isLetter(r rune) bool { return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
func isDigit(r rune) bool  { return r >= '0' && r <= '9' }
