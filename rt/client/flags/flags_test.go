package flags

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFilterQuery(t *testing.T) {
	q, err := Filters([]string{"label=a=b", "label=c", "until=1h"})
	require.NoError(t, err)
	require.JSONEq(t, `{"label":["a=b","c"],"until":["1h"]}`, q.Get("filters"))
	q, err = Filters(nil)
	require.NoError(t, err)
	require.Empty(t, q)
	for _, bad := range []string{"label", "=x", ""} {
		_, err := Filters([]string{bad})
		require.Error(t, err, bad)
	}
}

func TestIPAMConfig(t *testing.T) {
	got, err := IPAM([]string{"10.90.0.0/24", "fd00::/64"}, []string{"10.90.0.128/25"}, []string{"fd00::7", "10.90.0.9"}, []string{"printer=10.90.0.20"})
	require.NoError(t, err)
	b, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `[{"Subnet":"10.90.0.0/24","IPRange":"10.90.0.128/25","Gateway":"10.90.0.9","AuxiliaryAddresses":{"printer":"10.90.0.20"}},{"Subnet":"fd00::/64","Gateway":"fd00::7"}]`, string(b))
	for _, bad := range [][4][]string{
		{{"x"}}, {nil, {"10.90.0.128/25"}}, {{"10.91.0.0/24"}, nil, {"10.90.0.9"}}, {{"10.91.0.0/24"}, nil, nil, {"10.91.0.3"}},
	} {
		_, err := IPAM(bad[0], bad[1], bad[2], bad[3])
		require.Error(t, err, "%v", bad)
	}
}
