package template

import (
	"strconv"
	"strings"
)

// Bounds of one expression.
const (
	maxExpression = 24576 // characters, as in Azure
	maxNesting    = 64
)

// node is a part of an expression.
type node interface{}

type (
	literal struct{ value any } // string or int64
	call    struct {
		name string
		args []node
	}
	member struct { // of.name, and of[index] where name is ""
		of    node
		name  string
		index node
	}
)

// expressionOf tells whether a string is an expression, and gives its inner text. "[[" stands for a literal "[".
func expressionOf(s string) (inner, text string, is bool) {
	switch {
	case strings.HasPrefix(s, "[["):
		return "", s[1:], false
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"):
		return s[1 : len(s)-1], "", true
	}
	return "", s, false
}

// parseExpression reads what stands between the brackets. Positions count characters of it, from 1.
func parseExpression(text string) (node, error) {
	if len(text) > maxExpression {
		return nil, problem("the language expression is longer than %d characters", maxExpression)
	}
	p := &parser{text: text}
	n, err := p.expression(0)
	if err == nil {
		if p.blank(); p.at < len(p.text) {
			err = p.want("EndOfData")
		}
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

type parser struct {
	text string
	at   int
}

func (p *parser) blank() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// want is Azure's message, with the position.
func (p *parser) want(token string) error {
	got := "EndOfData"
	if p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '\'':
			got = "String"
		case c == '(':
			got = "LeftParenthesis"
		case c == ')':
			got = "RightParenthesis"
		case c == '[':
			got = "LeftSquareBracket"
		case c == ']':
			got = "RightSquareBracket"
		case c == ',':
			got = "Comma"
		case c == '.':
			got = "Dot"
		case c >= '0' && c <= '9' || c == '-':
			got = "Integer"
		case isName(c):
			got = "Identifier"
		default:
			return problem("the language expression '%s' is not valid: the string character '%s' at position '%d' is not expected", clip(p.text), clip(string([]rune(p.text[p.at:])[:1])), p.at+1)
		}
	}
	return problem("Unable to parse language expression '%s': expected token '%s' and actual '%s' at position '%d'", clip(p.text), token, got, p.at+1)
}

func (p *parser) eat(c byte) bool {
	p.blank()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) expression(depth int) (node, error) {
	if depth > maxNesting {
		return nil, problem("the language expression is nested deeper than %d", maxNesting)
	}
	p.blank()
	var n node
	switch {
	case p.at < len(p.text) && p.text[p.at] == '\'':
		s, err := p.str()
		if err != nil {
			return nil, err
		}
		n = literal{s}
	case p.at < len(p.text) && (p.text[p.at] == '-' || p.text[p.at] >= '0' && p.text[p.at] <= '9'):
		i, err := p.integer()
		if err != nil {
			return nil, err
		}
		n = literal{i}
	default:
		c, err := p.call(depth)
		if err != nil {
			return nil, err
		}
		n = c
	}
	for steps := 0; ; steps++ {
		if steps > maxNesting {
			return nil, problem("the language expression has more than %d properties in a row", maxNesting)
		}
		switch {
		case p.eat('.'):
			name := p.name()
			if name == "" {
				return nil, p.want("Identifier")
			}
			n = member{of: n, name: name}
		case p.eat('['):
			index, err := p.expression(depth + 1)
			if err != nil {
				return nil, err
			}
			if !p.eat(']') {
				return nil, p.want("RightSquareBracket")
			}
			n = member{of: n, index: index}
		default:
			return n, nil
		}
	}
}

func (p *parser) name() string {
	p.blank()
	begin := p.at
	for p.at < len(p.text) && isName(p.text[p.at]) {
		p.at++
	}
	return p.text[begin:p.at]
}

func (p *parser) call(depth int) (node, error) {
	name := p.name()
	if name == "" {
		return nil, p.want("Identifier")
	}
	if p.eat('.') { // namespace.function: one that the template defines itself
		return nil, problem("the function '%s.%s' is user-defined; user-defined functions are not supported here", clip(name), clip(p.name()))
	}
	if !p.eat('(') {
		return nil, p.want("LeftParenthesis")
	}
	c := call{name: name}
	if p.eat(')') {
		return c, nil
	}
	for {
		arg, err := p.expression(depth + 1)
		if err != nil {
			return nil, err
		}
		c.args = append(c.args, arg)
		if p.eat(',') {
			continue
		}
		if p.eat(')') {
			return c, nil
		}
		return nil, p.want("RightParenthesis")
	}
}

// str reads a string in single quotes; two of them are one inside.
func (p *parser) str() (string, error) {
	begin := p.at
	p.at++
	var b strings.Builder
	for p.at < len(p.text) {
		if p.text[p.at] != '\'' {
			b.WriteByte(p.text[p.at])
			p.at++
			continue
		}
		if strings.HasPrefix(p.text[p.at:], "''") {
			b.WriteByte('\'')
			p.at += 2
			continue
		}
		p.at++
		return b.String(), nil
	}
	return "", problem("the language expression '%s' is not valid: the string at position '%d' does not end", clip(p.text), begin+1)
}

func (p *parser) integer() (int64, error) {
	begin := p.at
	if p.text[p.at] == '-' {
		p.at++
	}
	for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
		p.at++
	}
	n, err := strconv.ParseInt(p.text[begin:p.at], 10, 64)
	if err != nil {
		return 0, problem("the language expression '%s' is not valid: '%s' at position '%d' is no integer of 64 bits", clip(p.text), clip(p.text[begin:p.at]), begin+1)
	}
	return n, nil
}
