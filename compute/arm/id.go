package arm

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// ID is the id of a resource in a group. Names keep the case they were given; two ids that differ only in case
// are the same resource.
type ID struct {
	Subscription string
	Group        string
	Type         string // such as Microsoft.Compute/virtualMachines, in Azure's spelling
	Name         string // for a nested type: parent/child
}

// The forms of names. One type for all ids, checked at the edge: nothing behind it sees a dot-dot or a slash.
var (
	nameForm  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,78}[A-Za-z0-9_])?$`)
	groupForm = regexp.MustCompile(`^[A-Za-z0-9_.\-()]{0,89}[A-Za-z0-9_\-()]$`)
	guidForm  = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// CheckName refuses what can't be a resource's name: 1 to 80 letters, digits, '_', '-' and '.', beginning with a
// letter, digit or '_' and not ending with '.' or '-'.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return Errorf(http.StatusBadRequest, "InvalidResourceName", "Resource name %q is invalid: want 1 to 80 letters, digits, '_', '-' and '.', beginning with a letter, digit or '_' and ending with one of them.", name)
	}
	return nil
}

func checkGroup(name string) error {
	if !groupForm.MatchString(name) || strings.Contains(name, "..") {
		return Errorf(http.StatusBadRequest, "InvalidResourceGroupName", "Resource group name %q is invalid: want 1 to 90 letters, digits, '_', '-', '.' and parentheses, not ending with '.'.", name)
	}
	return nil
}

func checkGUID(what, s string) error {
	if !guidForm.MatchString(s) {
		return Errorf(http.StatusBadRequest, "Invalid"+what, "The provided identifier %q is malformed: want a GUID.", s)
	}
	return nil
}

func (id ID) String() string {
	ns, kinds, _ := strings.Cut(id.Type, "/")
	s := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/%s", id.Subscription, id.Group, ns)
	names := strings.Split(id.Name, "/")
	for i, kind := range strings.Split(kinds, "/") {
		s += "/" + kind
		if i < len(names) {
			s += "/" + names[i]
		}
	}
	return s
}

// Key is the id under which a resource is stored: without case.
func (id ID) Key() string { return Key(id.String()) }

// Key folds an id that is known to be well-formed.
func Key(id string) string { return strings.ToLower(id) }

// GroupID is the id of the resource's group.
func (id ID) GroupID() string { return GroupID(id.Subscription, id.Group) }

// GroupID is the id of a group.
func GroupID(subscription, group string) string {
	return "/subscriptions/" + subscription + "/resourceGroups/" + group
}

// Parent is the id of the resource that a nested one lies in.
func (id ID) Parent() ID {
	id.Type = id.Type[:strings.LastIndex(id.Type, "/")]
	id.Name = id.Name[:strings.LastIndex(id.Name, "/")]
	return id
}

// Base is the last part of the name.
func (id ID) Base() string { return id.Name[strings.LastIndex(id.Name, "/")+1:] }

// ParseID reads the id of a resource of a wanted type, as it comes in a body.
func ParseID(s, wantType string) (ID, error) {
	bad := func(why string) (ID, error) {
		return ID{}, Errorf(http.StatusBadRequest, "LinkedInvalidPropertyId", "Property id %q is invalid: %s; want /subscriptions/{guid}/resourceGroups/{group}/providers/%s/{name}.", s, why, wantType)
	}
	parts := strings.Split(s, "/")
	ns, kinds, _ := strings.Cut(wantType, "/")
	kind := strings.Split(kinds, "/")
	if len(parts) != 7+2*len(kind) {
		return bad("wrong number of parts")
	}
	if parts[0] != "" || !strings.EqualFold(parts[1], "subscriptions") || !strings.EqualFold(parts[3], "resourceGroups") ||
		!strings.EqualFold(parts[5], "providers") || !strings.EqualFold(parts[6], ns) {
		return bad("another form or provider")
	}
	id := ID{Subscription: parts[2], Group: parts[4], Type: wantType}
	if checkGUID("SubscriptionId", id.Subscription) != nil || checkGroup(id.Group) != nil {
		return bad("subscription or group is malformed")
	}
	var names []string
	for i := range kind {
		if !strings.EqualFold(parts[7+2*i], kind[i]) {
			return bad("another resource type")
		}
		if CheckName(parts[8+2*i]) != nil {
			return bad("a name is malformed")
		}
		names = append(names, parts[8+2*i])
	}
	id.Name = strings.Join(names, "/")
	return id, nil
}

// Location folds the spellings of one region: "East US", "eastus".
func Location(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, " ", ""))
}
