package evidence

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
)

// Expectation is what a relying party wants of one claim.
//
// It is made by Exactly, OneOf, AtLeast, AtLeastFunc or Any. The zero value refuses whatever it is
// given: forgetting an expectation never skips a check.
type Expectation[T comparable] struct {
	kind   expectationKind
	values []T
	meets  func(got, floor T) bool
}

type expectationKind int

const (
	unset expectationKind = iota
	exactly
	oneOf
	atLeast
	anyValue
)

// Exactly accepts one value.
func Exactly[T comparable](want T) Expectation[T] {
	return Expectation[T]{kind: exactly, values: []T{want}}
}

// OneOf accepts each value of a list. An empty list refuses, and Validate calls it a mistake.
func OneOf[T comparable](want ...T) Expectation[T] {
	return Expectation[T]{kind: oneOf, values: append([]T(nil), want...)}
}

// AtLeast accepts the floor and everything above it.
func AtLeast[T cmp.Ordered](floor T) Expectation[T] {
	return AtLeastFunc(floor, func(got, floor T) bool { return got >= floor })
}

// AtLeastFunc is AtLeast for types whose order is not that of the language, such as a TCB, which is
// compared component by component.
func AtLeastFunc[T comparable](floor T, meets func(got, floor T) bool) Expectation[T] {
	return Expectation[T]{kind: atLeast, values: []T{floor}, meets: meets}
}

// Any accepts every value. It is spelled out so that a reader sees that nothing is checked.
func Any[T comparable]() Expectation[T] { return Expectation[T]{kind: anyValue} }

// IsSet tells whether the relying party said anything at all.
func (e Expectation[T]) IsSet() bool { return e.kind != unset }

// Validate reports an expectation that could never be met, before any evidence is looked at.
func (e Expectation[T]) Validate(field string) error {
	switch {
	case e.kind == unset:
		return Refuse(CodePolicy, field, "no expectation", "Exactly, OneOf, AtLeast or an explicit Any")
	case e.kind == oneOf && len(e.values) == 0:
		return Refuse(CodePolicy, field, "an empty list", "at least one value")
	}
	return nil
}

// Check compares a claim with the expectation.
func (e Expectation[T]) Check(claim, rule string, got T) Check {
	return Check{Claim: claim, Got: format(got), Want: e.String(), Result: e.result(got), Rule: rule}
}

func (e Expectation[T]) result(got T) Result {
	switch e.kind {
	case exactly, oneOf:
		for _, v := range e.values {
			if v == got {
				return Met
			}
		}
	case atLeast:
		if e.meets(got, e.values[0]) {
			return Met
		}
	case anyValue:
		return NotAsked
	}
	return NotMet
}

// String tells what is wanted, for people.
func (e Expectation[T]) String() string {
	switch e.kind {
	case exactly:
		return format(e.values[0])
	case oneOf:
		parts := make([]string, len(e.values))
		for i, v := range e.values {
			parts[i] = format(v)
		}
		return "one of [" + strings.Join(parts, ", ") + "]"
	case atLeast:
		return "at least " + format(e.values[0])
	case anyValue:
		return "any"
	}
	return "nothing is expected, so nothing is accepted"
}

// format prints byte arrays as lower-case hexadecimal digits and everything else as fmt does.
func format[T comparable](v T) string {
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Array && rv.Type().Elem().Kind() == reflect.Uint8 {
		b := make([]byte, rv.Len())
		reflect.Copy(reflect.ValueOf(b), rv)
		return hex.EncodeToString(b)
	}
	return fmt.Sprint(v)
}
